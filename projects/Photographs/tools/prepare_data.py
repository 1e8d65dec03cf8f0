r"""Write the folder of photographs in the formats that training and evaluation read.

    python -m projects.Photographs.tools.prepare_data PHOTOS --output DIR [--hold-back NAME ...]

PHOTOS has ``boxes/{train,val}.json`` (COCO json whose images have ``exhaustive_for``: "coco80", or
the list of names that are boxed wherever they occur) and ``pairs.jsonl`` ({"image", "caption",
"kind"}, where the kind is "caption" or "name"). Images are not copied. DIR gets

- ``boxes_{train,val}.json``: in images that are boxed for some names only, these names are in
  ``neg_category_ids`` where they are absent, and other names with boxes are in
  ``not_exhaustive_category_ids``, as in LVIS: what is unknown is not negative;
- ``captions.jsonl``: the sentences, a line for each image;
- ``names.jsonl``: images of one thing with its name; ``names_val.jsonl``: some of them that are
  kept out of training; ``concepts.jsonl``: their names as a dictionary, for negatives;
- ``texts.txt``: all captions, their noun phrases, and the names of ImageNet's classes, for
  ``scripts.distil_text_tower``.

--hold-back removes the boxes of names from the training, for the ablation; their images stay, with
the name as unknown.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import ImageNetInfo

from detclip2.data.io.coco_json import read_json
from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from scripts.name_regions import without_article

HELD_OUT = 200
"""Images of one thing that are kept out of training, at most one of ten of a name."""


def federated(content: Mapping[str, Any], hold_back: Collection[str] = ()) -> dict[str, Any]:
    """A COCO json in which unknown categories are marked as in LVIS.

    Args:
        content: images have ``exhaustive_for``; absent, it is "coco80".
        hold_back: names whose boxes are removed.

    Raises:
        UserError: a name of `hold_back` is no category.
    """
    id_of = {category["name"]: category["id"] for category in content["categories"]}
    if unknown := sorted(set(hold_back) - id_of.keys()):
        raise UserError(f"--hold-back {unknown[0]!r}: the boxes have no such name")
    removed = {id_of[name] for name in hold_back}
    present = defaultdict(set)
    annotations = []
    for annotation in content["annotations"]:
        if annotation["category_id"] not in removed:
            present[annotation["image_id"]].add(annotation["category_id"])
            annotations.append(annotation)
    images = []
    for image in content["images"]:
        slim = {key: image[key] for key in ("id", "file_name", "width", "height")}
        boxed = image.get("exhaustive_for", "coco80")
        known = (
            set(id_of.values()) if boxed == "coco80" else {id_of[n] for n in boxed if n in id_of}
        )
        known -= removed
        if known < set(id_of.values()):
            here = present[image["id"]]
            slim["neg_category_ids"] = sorted(known - here)
            slim["not_exhaustive_category_ids"] = sorted(here - known)
        images.append(slim)
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def split_names(lines: Sequence[Mapping[str, Any]], seed: int = 0) -> tuple[list, list]:
    """Images of one thing for training, and those kept out: at most a tenth of a name's images."""
    of_name = defaultdict(list)
    for line in lines:
        of_name[line["caption"]].append(line)
    rng = np.random.default_rng(seed)
    candidates = []
    for name in sorted(of_name):
        number = max(len(of_name[name]) // 10, int(len(of_name[name]) > 5))
        chosen = rng.choice(len(of_name[name]), number, replace=False)
        candidates += [of_name[name][i]["image"] for i in sorted(chosen)]
    number = min(HELD_OUT, len(candidates))
    held = {candidates[i] for i in rng.choice(len(candidates), number, replace=False)}
    train = [line for line in lines if line["image"] not in held]
    return train, [line for line in lines if line["image"] in held]


def write_lines(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write jsonl, complete or not at all."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(path, lambda file: file.write(text.encode()))


def texts_of(captions: Iterable[str]) -> list[str]:
    """Distinct texts of the photographs: captions, noun phrases, names of ImageNet's classes."""
    info = ImageNetInfo("imagenet-1k")
    classes = [info.index_to_description(i) for i in range(info.num_classes())]
    of_classes = [name.strip() for names in classes for name in names.split(",")]
    both = [text for caption in captions for text in (caption, *extract_noun_phrases(caption))]
    return list(dict.fromkeys(clean_phrase(text) for text in (*both, *of_classes)))


def prepare(photos: Path, output: Path, hold_back: Sequence[str]) -> None:
    """Write all files.

    Raises:
        UserError: a file is missing or not in the format.
    """
    output.mkdir(parents=True, exist_ok=True)
    for split, removed in (("train", hold_back), ("val", ())):
        content = federated(read_json(str(photos / f"boxes/{split}.json")), removed)
        text = json.dumps(content)
        write_whole(output / f"boxes_{split}.json", lambda file, t=text: file.write(t.encode()))
    try:
        pairs = [json.loads(line) for line in (photos / "pairs.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{photos}/pairs.jsonl cannot be read: {error}") from error
    captions = defaultdict(list)
    for line in pairs:
        if line["kind"] == "caption":
            captions[line["image"]].append(line["caption"])
    both = [{"image": image, "caption": texts} for image, texts in captions.items()]
    write_lines(both, output / "captions.jsonl")
    names = [
        {"image": line["image"], "caption": line["caption"]}
        for line in pairs
        if line["kind"] == "name"
    ]
    train, val = split_names(names)
    write_lines(train, output / "names.jsonl")
    write_lines(val, output / "names_val.jsonl")
    known = dict.fromkeys(without_article(clean_phrase(line["caption"])) for line in names)
    ConceptDictionary.from_names(list(known)).save(output / "concepts.jsonl")
    texts = "".join(f"{text}\n" for text in texts_of(line["caption"] for line in pairs))
    write_whole(output / "texts.txt", lambda file: file.write(texts.encode()))
    print(f"{output}: {len(both)} images with sentences, {len(train)} + {len(val)} with a name")


def main(argv: list[str] | None = None) -> int:
    """Prepare; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--hold-back", nargs="+", default=[], metavar="NAME")
    args = parser.parse_args(argv)
    try:
        prepare(args.photos, args.output, args.hold_back)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
