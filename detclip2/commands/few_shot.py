"""``detclip2 few-shot``: few-shot splits of annotations in COCO's format."""

import argparse
from collections import Counter
from pathlib import Path

from detclip2.commands.numbers import positive
from detclip2.data.few_shot import SEEDS, SHOTS, few_shot_file, few_shot_split, first_images
from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import Content
from detclip2.utils.files import write_json

EXAMPLE = "detclip2 few-shot train/annotations_without_background.json --output few_shot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("json", type=Path, metavar="FILE", help="annotations in COCO's format")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the splits"
    )
    parser.add_argument(
        "--name", default="train", help="name of the split in file names (default: train)"
    )
    parser.add_argument(
        "--shots",
        type=int,
        nargs="+",
        default=SHOTS,
        metavar="K",
        help=f"boxes of a class, at least (default: {_listed(SHOTS)})",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=SEEDS,
        metavar="N",
        help=f"seeds of the choice of images (default: {_listed(SEEDS)})",
    )
    parser.add_argument(
        "--first",
        type=int,
        metavar="N",
        help="write the first N images that have boxes instead: first<N>.json",
    )
    parser.add_argument(
        "--most-boxes",
        type=positive(int),
        metavar="N",
        help="boxes of an image of --first, at most",
    )


def run(args: argparse.Namespace) -> int:
    """Write a json for each number of boxes and each seed, such as fewshot_train_shot1_seed3."""
    content = read_coco_json(args.json)
    if args.first is not None:
        _write(
            args.output / f"first{args.first}.json",
            first_images(content, args.first, args.most_boxes),
        )
        return 0
    for shots in args.shots:
        for seed in args.seeds:
            split = few_shot_split(content, shots, seed)
            _write(args.output / few_shot_file(args.name, shots, seed), split)
    return 0


def _write(path: Path, split: Content) -> None:
    write_json(path, split, indent=None)
    print(_described(path, split))


def _described(path: Path, split: Content) -> str:
    """One line: images, boxes, and the least and most boxes of a class."""
    boxes = Counter(annotation["category_id"] for annotation in split["annotations"])
    counts = [boxes[category["id"]] for category in split["categories"]]
    return (
        f"{path}: {len(split['images'])} images, {len(split['annotations'])} boxes, "
        f"{min(counts)} to {max(counts)} of a class"
    )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
