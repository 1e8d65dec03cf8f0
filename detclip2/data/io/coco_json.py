"""Annotations in COCO's format, checked before anything is measured or chosen with them."""

import os
from collections.abc import Iterable
from typing import Any

from detclip2.data.datasets.detection import read_json
from detclip2.utils.errors import UserError

Content = dict[str, Any]

_KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco_json(path: str | os.PathLike[str], annotation_keys: Iterable[str] = ()) -> Content:
    """The content of a json in COCO's format, with at least one image.

    Args:
        path: the file.
        annotation_keys: what every annotation must have beside id, image, category and box.

    Raises:
        UserError: it cannot be read; a key is missing (which, and where); an id comes twice; a box
            has not four numbers; there are no images.
    """
    content = read_json(os.fspath(path), _KEYS)
    for part, keys in _KEYS.items():
        extra = tuple(annotation_keys) if part == "annotations" else ()
        _check_entries(content[part], part, (*keys, *extra), path)
    if not content["images"]:
        raise UserError(f"{path}: there are no images in this file to evaluate on or choose from")
    for annotation in content["annotations"]:
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise UserError(
                f"{path}: annotation {annotation['id']} has the bbox {box!r}; expected four "
                "numbers: x, y, width, height"
            )
    return content


def _check_entries(
    entries: Any, part: str, keys: tuple[str, ...], path: str | os.PathLike[str]
) -> None:
    if not isinstance(entries, list):
        raise UserError(f"{path}: {part!r} is not a list")
    seen = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {position} of {part!r} is not an object")
        for key in keys:
            if key not in entry:
                name = f"id {entry['id']}" if "id" in entry else f"entry {position}"
                raise UserError(f"{path}: {name} of {part!r} has no key {key!r}")
        if entry["id"] in seen:
            raise UserError(f"{path}: two entries of {part!r} have the id {entry['id']}")
        seen.add(entry["id"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
