"""Few-shot splits of a COCO json: images with at least K boxes of every class.

    python scripts/make_few_shot.py train/annotations_without_background.json --output few_shot

writes ``few_shot/fewshot_train_shot1_seed3.json`` and so on, for 1, 3, 5 and 10 boxes and three
seeds, as ODinW's few-shot track has them. ``--name valid`` for a validation split.
"""

import argparse
import json
import logging
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import Content
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)

SHOTS = (1, 3, 5, 10)
"""Those of ODinW's few-shot tracks (GLIP, ELEVATER)."""
SEEDS = (3, 30, 300)
"""Those of GLIP's splits. The splits here are others: GLIP published its files, not its code."""


def few_shot_split(content: Content, shots: int, seed: int) -> Content:
    """Images with at least `shots` boxes of every class.

    The images are shuffled by the seed; in that order, an image is taken if it has a box of a class
    that lacks boxes so far. It keeps all of its boxes, because unboxed objects would be background
    in training; so a class may have more than `shots`. A class with fewer boxes in the whole file
    has all of them; a warning names it. Boxes without area and crowds do not count.

    Args:
        content: of `read_coco_json`.
        shots: boxes of a class, at least 1.
        seed: of the shuffle; the same images come out on every machine.

    Returns:
        content of the same format; images and annotations in the order of the file.

    Raises:
        UserError: `shots` is not positive, or there is no box to choose.
    """
    if shots < 1:
        raise UserError(f"shots is {shots}; expected at least 1")
    counts: dict[Any, Counter[Any]] = {}  # image -> class -> boxes
    for annotation in content["annotations"]:
        if _counts(annotation):
            counts.setdefault(annotation["image_id"], Counter())[annotation["category_id"]] += 1
    order = [image["id"] for image in content["images"] if image["id"] in counts]
    if not order:
        raise UserError("there is no box in these annotations to make a few-shot split of")
    random.Random(seed).shuffle(order)
    have: Counter[Any] = Counter()
    taken = set()
    for image_id in order:
        if any(have[category] < shots for category in counts[image_id]):
            taken.add(image_id)
            have.update(counts[image_id])
    for category in content["categories"]:
        if (number := have[category["id"]]) < shots:
            logger.warning(
                "class %r has %d boxes in the whole file, fewer than %d",
                category["name"],
                number,
                shots,
            )
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in taken],
        "annotations": [a for a in content["annotations"] if a["image_id"] in taken],
    }


def _counts(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return width > 0 and height > 0 and not annotation.get("iscrowd", 0)


def describe(path: Path, split: Content) -> str:
    """One line: images, boxes, and the least and most boxes of a class."""
    boxes = Counter(annotation["category_id"] for annotation in split["annotations"])
    counts = [boxes[category["id"]] for category in split["categories"]]
    return (
        f"{path}: {len(split['images'])} images, {len(split['annotations'])} boxes, "
        f"{min(counts)} to {max(counts)} of a class"
    )


def main(argv: list[str] | None = None) -> int:
    """Make the splits; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="annotations in COCO's format")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--name", default="train", help="name of the split in file names (train)")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, help="boxes of a class")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        content = read_coco_json(args.json)
        for shots in args.shots:
            for seed in args.seeds:
                split = few_shot_split(content, shots, seed)
                path = args.output / f"fewshot_{args.name}_shot{shots}_seed{seed}.json"
                text = json.dumps(split, ensure_ascii=False)
                write_whole(path, lambda file, text=text: file.write(text.encode()))
                print(describe(path, split))
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
