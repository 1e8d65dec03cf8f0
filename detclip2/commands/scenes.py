"""``detclip2 scenes``: draw samples of EmojiScenes as a contact sheet."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from detclip2.data.emojiscenes import EmojiScenes
from detclip2.utils.errors import UserError

COLUMNS = 4
GAP = 6

EXAMPLE = "detclip2 scenes --output scenes --count 16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    parser.add_argument("--count", type=int, default=16, help="number of scenes (default: 16)")
    parser.add_argument(
        "--size", type=int, default=320, help="side of a scene in px (default: 320)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--world", type=int, default=None, help="number of categories (default: all)"
    )
    parser.add_argument(
        "--split",
        choices=("train", "val"),
        default="val",
        help="categories; train: base categories alone; val: novel ones too (default: val)",
    )


def run(args: argparse.Namespace) -> int:
    """Write each scene, and contact sheets without and with boxes."""
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
        for number, image in enumerate(plain):
            Image.fromarray(image).save(args.output / f"scene-{number:04d}.png")
        for name, images in (("sheet.png", plain), ("sheet-boxes.png", boxed)):
            Image.fromarray(contact_sheet(images)).save(args.output / name)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error})") from error
    print(f"{len(plain)} scenes with {len(names)} categories of {len(scenes.class_names)}")
    print(f"without boxes: {args.output / 'sheet.png'}")
    print(f"with boxes:    {args.output / 'sheet-boxes.png'}")
    return 0


def draw_boxes(record: dict, class_names: list[str]) -> np.ndarray:
    """A copy of the record's image with its boxes and names, (H, W, 3) uint8 RGB."""
    image = record["image"].copy()
    for item in record["annotations"]:
        left, top, right, bottom = (int(edge) for edge in item["bbox"])
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), (255, 0, 0), 1)
        name = class_names[item["category_id"]]
        (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 1)
        x = int(np.clip(left, 0, max(0, image.shape[1] - width)))
        y = max(top - 2, height)
        cv2.rectangle(image, (x, y - height), (x + width, y + 2), (255, 255, 255), -1)
        cv2.putText(
            image, name, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (180, 0, 0), 1, cv2.LINE_AA
        )
    return image


def contact_sheet(images: list[np.ndarray]) -> np.ndarray:
    """Images of one size, (H, W, 3) uint8 RGB, in rows on white."""
    height, width = images[0].shape[:2]
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full(
        (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8
    )
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet
