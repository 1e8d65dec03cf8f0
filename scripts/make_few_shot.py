"""Few-shot splits of a COCO json: images with at least so many boxes of every class.

    python scripts/make_few_shot.py train/annotations_without_background.json --output few_shot

writes ``few_shot/fewshot_train_shot1_seed3.json`` and so on, for 1, 3, 5 and 10 boxes and three
seeds, as ODinW's few-shot track has them. ``--name valid`` for a validation split.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path

from detclip2.data.few_shot import SEEDS, SHOTS, few_shot_split
from detclip2.data.io.coco_json import Content, read_coco_json
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole


def describe(path: Path, split: Content) -> str:
    """A line: images, boxes, and the least and most boxes of a class."""
    boxes = Counter(annotation["category_id"] for annotation in split["annotations"])
    counts = [boxes[category["id"]] for category in split["categories"]]
    return (
        f"{path}: {len(split['images'])} images, {len(split['annotations'])} boxes, "
        f"{min(counts)} to {max(counts)} of a class"
    )


def main(argv: list[str] | None = None) -> int:
    """Make the splits; 2 for a mistake that the user can mend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="annotations in COCO's format")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--name", default="train", help="of the split, for file names (train)")
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
