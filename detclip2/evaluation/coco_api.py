"""pycocotools on annotations and detections in memory, without its printed lines."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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
