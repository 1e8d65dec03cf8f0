"""COCO's and LVIS's protocols on annotations and detections in memory, by faster-coco-eval.

Each class is measured by itself. Classes are independent until their mean is taken, and each
concerns few images, while the package keeps an entry for each image and class, 24 million for
LVIS's validation set.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from detclip2.data.io.coco_parser import Entry
from detclip2.data.io.coco_values import order_of_id
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
IOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
NUM_RECALLS = 101
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""COCO's ranges of areas in px^2; both ends belong to them."""


class Curves(NamedTuple):
    """Precision and recall of one class; -1 where there is nothing to find."""

    precision: NDArray[np.float64]
    """(10 IoU thresholds, 101 recalls, 4 ranges of area, limits)."""
    recall: NDArray[np.float64]
    """(10, 4, limits)."""


def curves(
    boxes: Sequence[Entry],
    detections: Sequence[Entry],
    limits: Sequence[int] = (100,),
    task: str = "bbox",
    partial: Collection[Any] = (),
) -> Curves:
    """Measure boxes and detections as one class, whatever their categories.

    They are numbered from 1, because id 0 means "no match", and the first box of the many files
    that number from 0 would never count. Equal scores are ordered by image, then as given.

    Args:
        boxes: annotations. The default of ``iscrowd`` is 0, that of ``area`` the area of the box.
        detections: in COCO's format of results. Their area is that of the box or, for "segm", of
            the mask.
        limits: the best detections of an image that count, ascending; a result for each.
        task: "bbox", or "segm" for masks: both have RLE in ``segmentation``.
        partial: ids of images in which not every instance has a box. Detections there without a
            match do not count, as in LVIS's protocol.
    """
    if all(box.get("iscrowd") for box in boxes):
        shape = (len(IOUS), NUM_RECALLS, len(AREAS), len(limits))
        return Curves(np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0))
    detections = [{**one, "area": _area_of(one, task), "iscrowd": 0} for one in detections]
    boxes = [{"area": _area_of(one, "bbox"), "iscrowd": 0, **one} for one in boxes]
    ids = {one["image_id"] for one in (*boxes, *detections)}
    numbers = {identity: i for i, identity in enumerate(sorted(ids, key=order_of_id), 1)}
    images = {
        identity: {
            "id": number,
            "neg_category_ids": [1],
            "not_exhaustive_category_ids": [1] if identity in partial else [],
        }
        for identity, number in numbers.items()
    }
    if task == "segm":
        for one in (*boxes, *detections):
            height, width = one["segmentation"]["size"]
            images[one["image_id"]].update(height=height, width=width)
    evaluation = COCOeval_faster(
        *(_indexed(part, images) for part in (boxes, detections)), task, lvis_style=True
    )
    evaluation.print_function = _print_nothing
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0])


def _area_of(entry: Entry, task: str) -> float:
    if task == "segm":
        return float(coco_masks.area(entry["segmentation"]))
    return entry["bbox"][2] * entry["bbox"][3]


def _indexed(entries: Iterable[Entry], images: Mapping[Any, Entry]) -> COCO:
    """The package's index of the entries of one class, whose id is 1."""
    coco = COCO()
    coco.dataset = {
        "images": list(images.values()),
        "categories": [{"id": 1, "frequency": "f"}],  # the frequency is asked for, and not used
        "annotations": [
            {**one, "id": i, "image_id": images[one["image_id"]]["id"], "category_id": 1}
            for i, one in enumerate(entries, 1)
        ],
    }
    coco.createIndex()
    return coco


def _print_nothing(*_: object) -> None:
    """The package reports each step, here once a class."""


def average_precision(
    category_ids: Sequence[Any],
    boxes: Iterable[Entry],
    detections: Iterable[Entry],
    max_detections: int = 100,
    task: str = "bbox",
    partial: Mapping[Any, Collection[Any]] | None = None,
) -> tuple[dict[str, float], dict[Any, float]]:
    """COCO's AP in percent.

    Args:
        category_ids: C; boxes and detections of others are not looked at.
        boxes: annotations, see `curves`.
        detections: in COCO's format of results.
        max_detections: the best of an image and class that count.
        task: "bbox" or "segm".
        partial: category id -> ids of images in which not every instance has a box.

    Returns:
        `METRICS` by name, and AP by category id; NaN without boxes to find.
    """
    boxes_of, found_of = by_category(boxes), by_category(detections)
    precision = np.empty((len(IOUS), NUM_RECALLS, len(category_ids), len(AREAS)))
    for i, identity in enumerate(category_ids):
        images = (partial or {}).get(identity, ())
        found = curves(boxes_of[identity], found_of[identity], (max_detections,), task, images)
        precision[:, :, i] = found.precision[..., 0]
    of_classes = {c: mean_of(precision[:, :, i, 0]) for i, c in enumerate(category_ids)}
    return means(precision), of_classes


def by_category(entries: Iterable[Entry]) -> defaultdict[Any, list[Entry]]:
    """Entries by ``category_id``."""
    by_category = defaultdict(list)
    for entry in entries:
        by_category[entry["category_id"]].append(entry)
    return by_category


def means(precision: NDArray[np.float64]) -> dict[str, float]:
    """`METRICS` in percent by name, of precision (10 IoU thresholds, 101 recalls, C, 4 areas)."""
    metrics = {}
    for name, (threshold, area) in METRICS.items():
        chosen = precision[..., list(AREAS).index(area)]
        metrics[name] = mean_of(
            chosen if threshold is None else chosen[np.isclose(IOUS, threshold)]
        )
    return metrics


def mean_of(precision: NDArray[np.float64]) -> float:
    """The mean of defined values in percent, NaN if there is none; -1 marks undefined ones."""
    defined = precision[precision > -1]
    return float(100 * defined.mean()) if defined.size else float("nan")


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
