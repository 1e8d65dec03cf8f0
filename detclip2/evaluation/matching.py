"""Which detections are right: matching with boxes by COCO's rule at one IoU.

It is pycocotools that matches: faster-coco-eval, which measures AP here, does not tell what becomes
of each detection.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.data.io.coco_parser import Content, Entry
from detclip2.evaluation.federated import Federated


class Matches(NamedTuple):
    """P detections that count, in any order, and the N boxes that are to be found."""

    image_ids: list
    """(P,)."""
    category_ids: list
    """(P,)."""
    scores: NDArray[np.float64]
    """(P,)."""
    right: NDArray[np.bool_]
    """(P,) whether each is matched with a box of its category."""
    boxes: list[Entry]
    """(N,) annotations."""


def match(content: Content, detections: Sequence[Entry], iou: float = 0.5) -> Matches:
    """Match detections with the boxes of their category, the best 100 of an image and category.

    Each takes, by descending score, the free box with the highest IoU. Detections that are matched
    with a crowd do not count, nor do detections and boxes of a category in images where it is
    unknown or not exhaustive (`Federated`).

    Args:
        content: a COCO json.
        detections: in COCO's format of results.
        iou: the least of a match.
    """
    federated = Federated(content)
    truth, known = (
        [dict(b) for b in boxes if federated.is_exhaustive(b["image_id"], b["category_id"])]
        for boxes in (content["annotations"], detections)
    )
    evaluation = COCOeval(*(_indexed(content, part) for part in (truth, known)), "bbox")
    evaluation.params.iouThrs = np.array([iou])
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
    evaluation.params.maxDets = [100]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    image_ids, category_ids = [], []
    scores, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for one in evaluation.evalImgs:
        if one is not None:
            counted = ~one["dtIgnore"][0].astype(bool)
            scores.append(np.asarray(one["dtScores"], np.float64)[counted])
            right.append(one["dtMatches"][0][counted] > 0)
            image_ids += [one["image_id"]] * len(scores[-1])
            category_ids += [one["category_id"]] * len(scores[-1])
    boxes = [box for box in truth if not box.get("iscrowd")]
    return Matches(image_ids, category_ids, np.concatenate(scores), np.concatenate(right), boxes)


def _indexed(content: Content, boxes: Sequence[Entry]) -> COCO:
    """Boxes, numbered from 1 as id 0 means "no match"; without ``area``, it is that of the box."""
    coco = COCO()
    coco.dataset = {
        "images": content["images"],
        "categories": content["categories"],
        "annotations": [
            {"iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3], **box, "id": i}
            for i, box in enumerate(boxes, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
