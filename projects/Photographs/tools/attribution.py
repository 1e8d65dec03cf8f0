r"""Write the attribution of every photograph that a model was trained on, as CC BY asks for it.

    python -m projects.Photographs.tools.attribution PHOTOS --data DIR --output ATTRIBUTION.tsv.gz

PHOTOS is the folder of photographs, DIR what ``prepare_data`` has written: photographs that it
keeps out of training are not in the list. The file has a line for each photograph: file, licence,
page of the photograph (by which its author is named), source. The counts by licence are printed.
"""

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detclip2.data.io.coco_json import read_json
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

HEADER = ("file", "licence", "page", "source")


def of_boxes(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The lines of the images with boxes."""
    for image in content["images"]:
        page = image.get("photo_page") or image.get("flickr_url") or ""
        yield f"boxes/{image['file_name']}", image["license"], page, image["source"]


def of_pairs(lines: Iterable[Mapping[str, Any]], used: set[str]) -> Iterator[tuple[str, ...]]:
    """The lines of the image-text pairs whose image is used; captions of an image count once."""
    for line in lines:
        if line["image"] in used:
            yield line["image"], line["license"], line.get("photo_page") or "", line["source"]


def used_images(data: Path) -> set[str]:
    """The images that ``prepare_data`` has chosen for training, besides those with boxes.

    Raises:
        UserError: a file is missing.
    """
    try:
        return {
            json.loads(line)["image"]
            for name in ("captions.jsonl", "names.jsonl")
            for line in (data / name).read_text(encoding="utf-8").splitlines()
        }
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; run prepare_data first") from error


def attribution(photos: Path, data: Path) -> list[tuple[str, ...]]:
    """A line for each photograph of the training, in order of the files.

    Raises:
        UserError: a file is missing, or a photograph has no licence.
    """
    lines = (photos / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    try:
        found = [
            *of_boxes(read_json(str(photos / "boxes/train.json"))),
            *of_pairs(map(json.loads, lines), used_images(data)),
        ]
    except KeyError as error:
        raise UserError(f"{photos}: a photograph has no {error.args[0]!r}") from error
    return sorted({line[0]: line for line in reversed(found)}.values())


def write(lines: Iterable[Sequence[str]], path: Path) -> None:
    """Write the file, complete or not at all; compressed if its name ends in .gz."""
    content = "".join("\t".join(line) + "\n" for line in (HEADER, *lines)).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # the same bytes at any time
    write_whole(path, lambda file: file.write(content))


def main(argv: list[str] | None = None) -> int:
    """Write the file; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="TSV")
    args = parser.parse_args(argv)
    try:
        lines = attribution(args.photos, args.data)
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    write(lines, args.output)
    for licence, number in Counter(line[1] for line in lines).most_common():
        print(f"{licence}: {number}")
    print(f"{args.output}: {len(lines)} photographs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
