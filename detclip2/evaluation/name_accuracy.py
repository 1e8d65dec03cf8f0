"""Accuracy of names over boxes, independent of the order of scores between images."""

import logging
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_values import id_of
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator

logger = logging.getLogger(__name__)

MIN_IOU = 0.5


class NameAccuracyEvaluator(StreamingEvaluator):
    """The share of boxes that get their right name out of all names of the vocabulary.

    Among the detections of any name with an IoU of at least 0.5 with a box, the one with the
    highest score names it (for equal scores, the one with the higher IoU). A box without such a
    detection is not found, and counts as wrong. Average precision asks for more: scores must be
    ordered well over all images, which is hard for names without training.

    A model that chooses names at random names 1 of C found boxes rightly ("chance").

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's or LVIS's
            format. If its categories have a ``split``, each split has an accuracy.
        distributed: add up the counts of all processes on the main one.
        output_dir: folder for ``name_accuracy.json``; None writes nothing.

    Raises:
        UserError: the annotations cannot be read or lack a key.
    """

    best_metric = "names/accuracy"

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        content = read_coco_json(metadata.json_file)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        registered = metadata.get("thing_dataset_id_to_contiguous_id") or {
            category["id"]: number for number, category in enumerate(categories)
        }
        id_to_class = {id_of(identity): number for identity, number in registered.items()}
        self._split_of = {id_to_class[c["id"]]: c.get("split") for c in categories}
        self._truth: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
        for one in content["annotations"]:
            if not one.get("iscrowd", 0):
                truth = one["bbox"], id_to_class[one["category_id"]]
                self._truth[one["image_id"]].append(truth)
        protocol = Protocol(
            dataset_name,
            annotations_of(metadata.json_file),
            "all that the model gave",
            f"accuracy of names; of detections with IoU >= {MIN_IOU} the best names a box",
        )
        image_ids = {image["id"] for image in content["images"]}
        super().__init__(protocol, image_ids, metadata.json_file, distributed, output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._seen: list[Any] = []
        # For each class: boxes, found boxes, rightly named boxes.
        self._counts = np.zeros((len(self._split_of), 3), dtype=np.int64)

    def add(self, key: Any, instances: Instances) -> None:
        """Name the boxes of an image."""
        self._seen.append(key)
        truth = self._truth[key]
        if not truth:
            return
        boxes = torch.tensor([box for box, _ in truth], dtype=torch.float32)
        boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        names = names_of_boxes(Boxes(boxes), instances)
        for (_, own), name in zip(truth, names, strict=True):
            self._counts[own] += (1, name is not None, name == own)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"names": {"accuracy", "found", "chance", "accuracy-SPLIT"...}}, percent; NaN without
        boxes.

        None on processes other than the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        counts = self.sum_over_processes(self._counts, self._seen)
        if counts is None:
            return None
        total, found, right = counts.sum(axis=0).tolist()
        results = {
            "accuracy": _percent(right, total),
            "found": _percent(found, total),
            "chance": 100 / len(counts),
        }
        for split in dict.fromkeys(split for split in self._split_of.values() if split):
            members = [number for number, own in self._split_of.items() if own == split]
            total, _, right = counts[members].sum(axis=0).tolist()
            results[f"accuracy-{split}"] = _percent(right, total)
        logger.info("%s", self.protocol)
        self.write("name_accuracy.json", {"names": results})
        return {"names": results}


def names_of_boxes(boxes: Boxes, instances: Any) -> list[int | None]:
    """The class that detections give to each of N boxes; None if none overlaps enough."""
    if not len(instances):
        return [None] * len(boxes)
    overlap = pairwise_iou(boxes, instances.pred_boxes)  # (N, detections)
    # The best score; among equal scores, the best overlap.
    score = instances.scores.expand_as(overlap).masked_fill(overlap < MIN_IOU, -1)
    best, _ = score.max(dim=1)
    chosen = overlap.masked_fill(score < best[:, None], -1).argmax(dim=1)
    classes = instances.pred_classes[chosen].tolist()
    return [name if top >= 0 else None for name, top in zip(classes, best.tolist(), strict=True)]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
