"""Class-agnostic average recall by object size (paper, Tab. 8)."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from detclip2.data.io.coco_json import read_coco_json
from detclip2.evaluation.coco_api import AREAS, IOUS, curves
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.inference.results import to_coco
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = dict(zip(AREAS, ("", "s", "m", "l"), strict=True))
"""COCO's range of areas -> suffix of "AR" in the name of a metric."""


class AverageRecallEvaluator(StreamingEvaluator):
    """Share of boxes that are found, whatever their names.

    All boxes, true and detected, are of one class. The best detections of each image by score are
    compared with its boxes as soon as they arrive, so memory does not grow with the data set;
    recall is an exact sum over images. Images that never arrive count as images without detections.

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's or LVIS's
            format.
        max_detections: detections of an image that count, the best first; one result for each
            limit.
        distributed: add up the counts of all processes on the main one.
        output_dir: folder for ``average_recall.json``; None writes nothing.

    Raises:
        UserError: the annotations cannot be read, lack a key, or have no images; or
            `max_detections` is not positive.
    """

    best_metric = "box_recall/AR@100"

    def __init__(
        self,
        dataset_name: str,
        max_detections: Sequence[int] = (100, 300, 1000),
        distributed: bool = True,
        output_dir: str | None = None,
    ) -> None:
        json_file = MetadataCatalog.get(dataset_name).json_file
        content = read_coco_json(json_file)
        self._limits = sorted(max_detections)
        if not self._limits or self._limits[0] < 1:
            raise UserError(f"max_detections is {max_detections}; expected positive numbers")
        self._boxes: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            self._boxes[annotation["image_id"]].append(annotation)
        image_ids = {image["id"] for image in content["images"]}
        self._total = np.sum([_in_areas(self._boxes[image_id]) for image_id in image_ids], axis=0)
        protocol = Protocol(
            dataset_name,
            annotations_of(json_file),
            f"the best {', '.join(map(str, self._limits))} of an image, names put together",
            "average recall without classes, IoU 0.50:0.95",
        )
        super().__init__(protocol, image_ids, json_file, distributed, output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # Number of found boxes: (IoU, area, limit).
        shape = (len(IOUS), len(AREAS), len(self._limits))
        self._found = np.zeros(shape, dtype=np.int64)
        self._seen: list[Any] = []

    def add(self, key: Any, instances: Instances) -> None:
        """Compare the detections of an image with its boxes."""
        best = instances.scores.argsort(descending=True, stable=True)[: self._limits[-1]]
        self._found += self._found_in(key, instances[best])
        self._seen.append(key)

    def _found_in(self, image_id: Any, instances: Any) -> np.ndarray:
        """Number of found boxes of an image: (IoU, area, limit)."""
        boxes = self._boxes[image_id]
        if not boxes or not len(instances):
            return np.zeros_like(self._found)
        recall = curves(boxes, to_coco(instances, image_id), self._limits).recall
        return np.rint(recall.clip(min=0) * _in_areas(boxes)[:, None]).astype(np.int64)

    def evaluate(self) -> dict[str, Any] | None:
        """{"box_recall": {"AR@100": ..., "ARs@100": ..., ...}} in percent, NaN without boxes.

        None on processes other than the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        found = self.sum_over_processes(self._found, self._seen)
        if found is None:
            return None
        with np.errstate(invalid="ignore"):
            recall = 100 * (found / self._total[:, None]).mean(axis=0)  # (area, limit)
        results = {
            f"AR{suffix}@{limit}": float(recall[area, i])
            for i, limit in enumerate(self._limits)
            for area, suffix in enumerate(SUFFIXES.values())
        }
        logger.info("%s", self.protocol)
        self.write("average_recall.json", {"box_recall": results})
        return {"box_recall": results}


def _in_areas(boxes: list[dict[str, Any]]) -> np.ndarray:
    """Number of boxes in each range of areas, without crowds: (area,)."""
    areas = [
        box.get("area", box["bbox"][2] * box["bbox"][3])
        for box in boxes
        if not box.get("iscrowd", 0)
    ]
    return np.array([sum(low <= area <= high for area in areas) for low, high in AREAS.values()])
