"""Example boxes of names, as ``detclip2 vocabulary --examples`` reads them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from detclip2.commands.tables import console_for_tables
from detclip2.finetuning.coco_check import OwnData, read_own_data
from detclip2.finetuning.report import report_data
from detclip2.inference.examples import ExampleImage
from detclip2.utils.errors import UserError


def examples_in(folder: Path) -> OwnData:
    """The examples in a folder, without names that have no box.

    Args:
        folder: of images, with one json in COCO's format.

    Raises:
        UserError: there is not one json, it cannot be read, or no box remains.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of examples")
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise UserError(
            f"{folder}: {len(files)} .json files are in this folder of examples; expected one, "
            "with their boxes in COCO's format"
        )
    data = read_own_data(files[0], folder)
    boxed = sorted({one["category_id"] for one in data.annotations if not one["iscrowd"]})
    if not boxed:
        raise UserError(f"{files[0]}: there is no example: all boxes are of crowds")
    index = {old: new for new, old in enumerate(boxed)}
    data.names = [data.names[i] for i in boxed]
    data.annotations = [
        {**one, "category_id": index[one["category_id"]]}
        for one in data.annotations
        if not one["iscrowd"]
    ]
    return data


def images_of(data: OwnData) -> Iterator[ExampleImage]:
    """The images that have boxes."""
    boxes: dict[int, list[tuple[list[float], str]]] = {}
    for one in data.annotations:
        x, y, width, height = one["bbox"]
        box = [x, y, x + width, y + height], data.names[one["category_id"]]
        boxes.setdefault(one["image_id"], []).append(box)
    for image in data.images:
        if of_image := boxes.get(image["id"]):
            corners, labels = zip(*of_image, strict=True)
            path = data.image_root / image["file_name"]
            yield ExampleImage(path, torch.tensor(corners), labels)


def report(data: OwnData, used: dict[str, int]) -> None:
    """Print what was read, and in which boxes the model sees no object."""
    console = console_for_tables()
    report_data(console, {"example": data}, data.names)
    given = Counter(data.names[one["category_id"]] for one in data.annotations)
    for name, count in given.items():
        if unused := count - used[name]:
            console.print(
                f"{name}: the model sees no object in {unused} of {count} example boxes, which "
                "have no part in its row",
                markup=False,
                soft_wrap=True,
            )
