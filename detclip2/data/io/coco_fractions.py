"""Boxes as fractions of their images, as YOLO's are, in files of COCO's format."""

import os
from collections.abc import Iterable
from typing import Any

from detclip2.data.io.coco_values import four_finite_numbers
from detclip2.utils.errors import UserError, shown

_TOLERANCE = 0.01  # of an image: decimals are rounded


def find_fractions(
    path: str | os.PathLike[str], annotations: Iterable[dict[str, Any]]
) -> tuple[bool, list[dict[str, Any]]]:
    """Find out whether the boxes of a file are fractions of their images.

    They are if all numbers of all boxes are within 0 and 1, since boxes in pixels are larger.

    Args:
        path: the file, for messages.
        annotations: its annotations; those without a box do not count.

    Returns:
        Whether they are, as x, y, width, height; and the boxes below a pixel in a file in pixels.

    Raises:
        UserError: it is not clear what the boxes are: some are within 0 and 1 and others not, all
            are 0 and 1, or they reach beyond 1 as x, y, width, height.
    """
    small, larger = [], 0
    for annotation in annotations:
        box = four_finite_numbers(annotation.get("bbox"))
        if box is None or box[2] <= 0 or box[3] <= 0:
            continue
        if min(box) >= 0 and max(box) <= 1:
            small.append((annotation, box))
        else:
            larger += 1
    fractions = [(one, box) for one, box in small if not all(map(float.is_integer, box))]
    if not small or (larger and len(fractions) <= larger):
        return False, [one for one, _ in fractions]
    first, box = (fractions or small)[0]
    where = f"{path}: annotation {shown(first.get('id'))} has the bbox {list(box)}"
    if larger:
        raise UserError(
            f"{where}, as in {len(fractions)} fractions of the image, but {larger} boxes of the "
            "file are in pixels; write all in pixels"
        )
    if not fractions:
        raise UserError(
            f"{where}, and all boxes of the file are of 0 and 1: they may be fractions of the "
            "image or pixels; write x, y, width, height in pixels"
        )
    for annotation, (x, y, width, height) in fractions:
        if max(x + width, y + height) > 1 + _TOLERANCE:
            raise UserError(
                f"{path}: boxes are fractions of the image, but the bbox "
                f"{[x, y, width, height]} of annotation {shown(annotation.get('id'))} reaches "
                "beyond it as x, y, width, height: are these a centre or two corners? Write x, y, "
                "width, height in pixels"
            )
    return True, []
