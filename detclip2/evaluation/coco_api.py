"""pycocotools on annotations and detections in memory, without its printed lines."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.data.io.masks import rle_of
from detclip2.utils.errors import UserError, shown

METRICS = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}
"""Name -> (IoU threshold, None for the mean of 0.50 to 0.95; range of areas)."""


def coco_of(
    images: Sequence[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
    categories: Sequence[dict[str, Any]],
) -> COCO:
    """An index of true boxes, or of detections (which have a ``score``).

    Boxes are numbered from 1, because COCOeval takes id 0 for "no match" and would never count the
    first box of the many files that number from 0. The default of ``iscrowd`` is 0, that of
    ``area`` the area of the box, as for detections.
    """
    coco = COCO()
    coco.dataset = {
        "images": list(images),
        "categories": list(categories),
        "annotations": [
            {"iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3], **box, "id": i}
            for i, box in enumerate(annotations, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def with_masks(
    path: str, images: Sequence[dict[str, Any]], annotations: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The annotations with their masks as RLE, for the evaluation of masks.

    A crowd without a mask is its box. ``area``, if it is not stated, is that of the mask.

    Args:
        path: of the file, for messages.
        images: with ``height`` and ``width``.
        annotations: of these images.

    Raises:
        UserError: an object has no mask that can be read, or an image no size. Objects are not
            skipped, as their detections would count as false.
    """
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    masked = []
    for one in annotations:
        height, width = sizes[one["image_id"]]
        if height is None or width is None:
            raise UserError(f"{path}: image {shown(one['image_id'])} has no height and width")
        segmentation = one.get("segmentation")
        if one.get("iscrowd") and not segmentation:
            segmentation = _outline_of_box(one["bbox"], width, height)
        try:
            rle = rle_of(segmentation, (height, width))
        except ValueError as error:
            raise UserError(
                f"{path}: the mask of annotation {shown(one.get('id'))} cannot be read: {error}; "
                "fix it, or evaluate boxes alone: tasks=['bbox']"
            ) from error
        masked.append({"area": float(coco_masks.area(rle)), **one, "segmentation": rle})
    return masked


def _outline_of_box(box: Sequence[float], width: int, height: int) -> list[list[float]]:
    x1, y1 = max(box[0], 0), max(box[1], 0)
    x2, y2 = min(box[0] + box[2], width), min(box[1] + box[3], height)
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def evaluated(truth: COCO, detections: COCO, max_detections: list[int], by_class: bool) -> COCOeval:
    """An accumulated COCOeval of boxes; without `by_class` all boxes are of one class."""
    evaluation = COCOeval(truth, detections, "bbox")
    evaluation.params.maxDets = max_detections
    evaluation.params.useCats = int(by_class)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def average_precision(
    truth: COCO, detections: COCO, max_detections: int = 100
) -> tuple[dict[str, float], dict[int, float]]:
    """Standard AP in percent.

    Returns:
        `METRICS` by name, and AP by category id; NaN without boxes to find.
    """
    evaluation = evaluated(truth, detections, [1, 10, max_detections], by_class=True)
    params = evaluation.params
    precision = evaluation.eval["precision"][..., -1]  # (IoU, recall, class, area)
    metrics = {}
    for name, (threshold, area) in METRICS.items():
        chosen = precision[..., params.areaRngLbl.index(area)]
        if threshold is not None:
            chosen = chosen[np.isclose(params.iouThrs, threshold)]
        metrics[name] = _mean(chosen)
    everywhere = precision[..., params.areaRngLbl.index("all")]
    of_classes = {c: _mean(everywhere[:, :, i]) for i, c in enumerate(params.catIds)}
    return metrics, of_classes


def _mean(precision: np.ndarray) -> float:
    """The mean of defined values in percent; -1 marks undefined ones."""
    defined = precision[precision > -1]
    return float(100 * defined.mean()) if defined.size else float("nan")
