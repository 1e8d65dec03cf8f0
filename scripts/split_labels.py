"""Split a COCO json into parts, in each of which only some of the categories are labelled.

    python scripts/split_labels.py train.json --names RBC --names WBC Platelets --output parts

writes ``parts/part1.json``, with a half of the images and the boxes of RBC, and
``parts/part2.json`` with the other half and the boxes of WBC and Platelets: what several people
leave who each labelled what they needed. ``detclip2 finetune --train`` joins them.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import Content
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole


def split_labels(content: Content, names: Sequence[Sequence[str]], seed: int = 0) -> list[Content]:
    """Equal shares of the images, each with the categories of one list of names.

    Args:
        content: of `read_coco_json`.
        names: for each part the names of its categories.
        seed: of the shuffle that deals out the images; the same on every machine.

    Returns:
        For each part a content of the same format; its images without a box of its categories stay.

    Raises:
        UserError: there is no category of a name.
    """
    images = list(content["images"])
    random.Random(seed).shuffle(images)
    parts = []
    for number, chosen in enumerate(names):
        known = {category["name"]: category["id"] for category in content["categories"]}
        if missing := [name for name in chosen if name not in known]:
            raise UserError(f"there is no category {missing[0]!r}; there are {list(known)}")
        ids = {known[name] for name in chosen}
        taken = {image["id"] for image in images[number :: len(names)]}
        parts.append(
            {
                **content,
                "images": [image for image in content["images"] if image["id"] in taken],
                "annotations": [
                    one
                    for one in content["annotations"]
                    if one["image_id"] in taken and one["category_id"] in ids
                ],
                "categories": [one for one in content["categories"] if one["id"] in ids],
            }
        )
    return parts


def main(argv: list[str] | None = None) -> int:
    """Write the parts; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="annotations in COCO's format")
    parser.add_argument("--names", nargs="+", action="append", required=True, metavar="NAME",
                        help="the categories of a part; once for each part")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        parts = split_labels(read_coco_json(args.json), args.names, args.seed)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for number, (part, names) in enumerate(zip(parts, args.names, strict=True), 1):
        path = args.output / f"part{number}.json"
        text = json.dumps(part, ensure_ascii=False)
        write_whole(path, lambda file, text=text: file.write(text.encode()))
        boxes = f"{len(part['annotations'])} boxes of {', '.join(names)}"
        print(f"{path}: {len(part['images'])} images, {boxes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
