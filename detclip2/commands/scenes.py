"""``detclip2 scenes``: look at what EmojiScenes draws."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detclip2.data.emojiscenes import EmojiScenes
from detclip2.utils.errors import UserError

COLUMNS = 4
GAP = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--count", type=int, default=16, help="number of scenes (default 16)")
    parser.add_argument("--size", type=int, default=320, help="side of a scene in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    parser.add_argument("--world", type=int, default=None, help="number of categories (all)")
    parser.add_argument(
        "--split",
        choices=("train", "val"),
        default="val",
        help="train: base categories alone; val: novel ones too (default)",
    )


def run(args: argparse.Namespace) -> int:
    """Write each scene without boxes and one contact sheet, without boxes and with."""
    if not 1 <= args.count <= 1000:
        raise UserError(f"--count {args.count}: expected 1 to 1000")
    scenes = EmojiScenes(
        args.world, split=args.split, count=args.count, size=args.size, seed=args.seed
    )
    plain, boxed = [], []
    names: set[str] = set()
    for record in scenes:
        plain.append(record["image"])
        boxed.append(draw_boxes(record, scenes.class_names))
        names.update(scenes.class_names[item["category_id"]] for item in record["annotations"])
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(plain):
            Image.fromarray(picture).save(args.output / f"scene-{number:04d}.png")
        for name, pictures in (("sheet.png", plain), ("sheet-boxes.png", boxed)):
            Image.fromarray(contact_sheet(pictures)).save(args.output / name)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error})") from error
    print(f"{len(plain)} scenes with {len(names)} categories of {len(scenes.class_names)}")
    print(f"without boxes: {args.output / 'sheet.png'}")
    print(f"with boxes:    {args.output / 'sheet-boxes.png'}")
    return 0


def draw_boxes(record: dict, class_names: list[str]) -> np.ndarray:
    """A copy of the record's picture with its boxes and names, (H, W, 3) uint8."""
    picture = record["image"].copy()
    for item in record["annotations"]:
        left, top, right, bottom = (int(edge) for edge in item["bbox"])
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), (255, 0, 0), 1)
        name = class_names[item["category_id"]]
        (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 1)
        x = int(np.clip(left, 0, max(0, picture.shape[1] - width)))
        y = max(top - 2, height)
        cv2.rectangle(picture, (x, y - height), (x + width, y + 2), (255, 255, 255), -1)
        cv2.putText(
            picture, name, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (180, 0, 0), 1, cv2.LINE_AA
        )
    return picture


def contact_sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Equal pictures (H, W, 3) uint8 side by side on white, a few to a row."""
    height, width = pictures[0].shape[:2]
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8
    )
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet
