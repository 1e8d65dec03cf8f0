"""Class-agnostic average recall by size of objects (paper Tab. 8)."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from pycocotools.cocoeval import Params

from detclip2.data.io.coco_json import read_coco_json
from detclip2.evaluation.checks import (
    check_finite,
    check_known,
    sum_over_processes,
    write_results,
)
from detclip2.evaluation.coco_api import coco_of, evaluated
from detclip2.evaluation.protocol import Protocol, annotations_of, prompts_of
from detclip2.inference.results import to_coco
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

AREAS = {"all": "", "small": "s", "medium": "m", "large": "l"}
"""COCO's ranges of areas -> what follows "AR" in the name of a metric."""


class AverageRecallEvaluator(DatasetEvaluator):
    """How many of the boxes are found at all, whatever name they are given.

    All boxes, true and detected, are of one class. Of each image the best detections by score are
    compared with its boxes by pycocotools (``useCats=0``) as soon as they arrive, so that memory
    does not grow with the data set; recall is a sum over images, and the sum is exact. Images that
    never arrive count as images where nothing was found.

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's or LVIS's
            format.
        max_detections: the best so many of an image count, one result for each.
        distributed: add up what all processes found, on the main one.
        output_dir: where ``average_recall.json`` goes; None writes nothing.
        prompts: what the model is asked for, in words, for the protocol.

    Raises:
        UserError: the annotations cannot be read, lack a key, or have no images; or
            `max_detections` are not positive.
    """

    def __init__(
        self,
        dataset_name: str,
        max_detections: Sequence[int] = (100, 300, 1000),
        distributed: bool = True,
        output_dir: str | None = None,
        prompts: str | None = None,
    ) -> None:
        self._json_file = MetadataCatalog.get(dataset_name).json_file
        content = read_coco_json(self._json_file)
        self._limits = sorted(max_detections)
        if not self._limits or self._limits[0] < 1:
            raise UserError(f"max_detections is {max_detections}; expected positive numbers")
        self._distributed = distributed
        self._folder = output_dir
        self._boxes: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            self._boxes[annotation["image_id"]].append({**annotation, "category_id": 0})
        self._image_ids = {image["id"] for image in content["images"]}
        in_areas = [_in_areas(self._boxes[image_id]) for image_id in self._image_ids]
        self._total = np.sum(in_areas, axis=0)
        self.protocol = Protocol(
            dataset_name,
            annotations_of(self._json_file),
            prompts or prompts_of([category["name"] for category in content["categories"]]),
            f"the best {', '.join(map(str, self._limits))} of an image, names put together",
            "average recall without classes, IoU 0.50:0.95",
        )
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # How many boxes are found: (IoU, area, limit).
        shape = (len(Params("bbox").iouThrs), len(AREAS), len(self._limits))
        self._found = np.zeros(shape, dtype=np.int64)
        self._seen: list[Any] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the detections of some images with their boxes.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: ``pred_boxes`` XYXY in px of the original, ``scores``.

        Raises:
            UserError: an image is not in the annotations, or a score or a box is NaN.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id, instances = record["image_id"], output["instances"].to("cpu")
            check_known(image_id, self._image_ids, self._json_file)
            check_finite(image_id, instances)
            best = instances.scores.argsort(descending=True, stable=True)[: self._limits[-1]]
            self._found += self._found_in(image_id, instances[best])
            self._seen.append(image_id)

    def _found_in(self, image_id: Any, instances: Any) -> np.ndarray:
        """The boxes of an image that are found: (IoU, area, limit)."""
        boxes = self._boxes[image_id]
        if not boxes or not len(instances):
            return np.zeros_like(self._found)
        one_class = [0] * (int(instances.pred_classes.max()) + 1)
        part = ([{"id": image_id}], boxes, [{"id": 0}])
        detections = to_coco(instances, image_id, one_class)
        evaluation = evaluated(
            coco_of(*part), coco_of(part[0], detections, part[2]), self._limits, by_class=False
        )
        recall = evaluation.eval["recall"][:, 0]  # of the one class; -1 where there are no boxes
        return np.rint(recall.clip(min=0) * _in_areas(boxes)[:, None]).astype(np.int64)

    def evaluate(self) -> dict[str, Any] | None:
        """{"box_recall": {"AR@100": ..., "ARs@100": ..., ...}} in percent, NaN without boxes.

        None on processes but the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        found = sum_over_processes(
            self._found, self._seen, self.protocol.dataset, self._distributed
        )
        if found is None:
            return None
        with np.errstate(invalid="ignore"):
            recall = 100 * (found / self._total[:, None]).mean(axis=0)  # (area, limit)
        results = {
            f"AR{suffix}@{limit}": float(recall[area, i])
            for i, limit in enumerate(self._limits)
            for area, suffix in enumerate(AREAS.values())
        }
        logger.info("%s", self.protocol)
        if self._folder:
            path = Path(self._folder) / "average_recall.json"
            write_results(path, self.protocol, {"box_recall": results})
        return {"box_recall": results}


def _in_areas(boxes: list[dict[str, Any]]) -> np.ndarray:
    """How many boxes there are to find in each range of areas, crowds left out: (area,)."""
    params = Params("bbox")
    areas = [
        box.get("area", box["bbox"][2] * box["bbox"][3])
        for box in boxes
        if not box.get("iscrowd", 0)
    ]
    ranges = [params.areaRng[params.areaRngLbl.index(label)] for label in AREAS]
    return np.array([sum(low <= area <= high for area in areas) for low, high in ranges])
