"""What the numbers and masks of a user's own annotations mean as boxes."""

import math
from typing import Any

import numpy as np
from pycocotools import mask as masks

Entry = dict[str, Any]

_ENOUGH_TO_TELL = 10  # boxes from which the meaning of four numbers is concluded


def four_numbers(box: Any) -> tuple[float, ...] | None:
    """A box as it stands in a json; None unless it is a list of four finite numbers."""
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
        return None
    return tuple(float(v) for v in box)


def box_of_mask(segmentation: Any, image: Entry) -> tuple[float, ...] | None:
    """The box XYWH around polygons or an RLE of the image's size; None if it is neither."""
    size = [image["height"], image["width"]]
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != size:
                return None
            if isinstance(segmentation["counts"], list):
                segmentation = masks.frPyObjects(segmentation, *size)
        else:
            polygons = [[float(v) for v in polygon] for polygon in segmentation]
            if not polygons or any(len(p) < 6 or len(p) % 2 for p in polygons):
                return None
            segmentation = masks.merge(masks.frPyObjects(polygons, *size))
        return tuple(float(v) for v in masks.toBbox(segmentation))
    except (KeyError, TypeError, ValueError):
        return None


def are_corners(boxes: list[tuple[float, ...]], images: list[Entry]) -> bool:
    """Whether the boxes of a file are x1, y1, x2, y2.

    As COCO's x, y, width, height, most of them would then leave their image, and as corners none
    does. Of a few boxes this is not concluded.
    """
    if len(boxes) < _ENOUGH_TO_TELL:
        return False
    x, y, third, fourth = np.array(boxes).T
    width, height = np.array([(image["width"], image["height"]) for image in images]).T
    as_sizes = (x + third > width + 1) | (y + fourth > height + 1)
    as_corners = (third > x) & (fourth > y) & (third <= width + 1) & (fourth <= height + 1)
    return bool(as_sizes.mean() > 0.5 and as_corners.all())
