"""Are things called by their right names? Accuracy over boxes, whatever the order of scores."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from detclip2.data.io.coco_json import read_coco_json
from detclip2.evaluation.checks import (
    check_finite,
    check_known,
    sum_over_processes,
    write_results,
)
from detclip2.evaluation.protocol import Protocol, annotations_of, prompts_of

logger = logging.getLogger(__name__)

MIN_IOU = 0.5


class NameAccuracyEvaluator(DatasetEvaluator):
    """The share of boxes that get their right name, of all names that were asked for.

    Of the detections whose IoU with a box is at least 0.5, whatever their names, the one of the
    highest score names it (of equal scores, the one with the higher IoU). A box without such a
    detection is not found, and wrong. Average precision asks for more: that scores are ordered
    well over all images, which is hard for names that were never trained on.

    A model that takes names at random is right in 1 of C boxes that it finds ("chance").

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's or LVIS's
            format. Where its categories have a ``split``, there is an accuracy for each.
        distributed: add up what all processes found, on the main one.
        output_dir: where ``name_accuracy.json`` goes; None writes nothing.

    Raises:
        UserError: the annotations cannot be read or lack a key.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, output_dir: str | None = None
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._json_file = metadata.json_file
        content = read_coco_json(self._json_file)
        self._distributed = distributed
        self._folder = output_dir
        categories = sorted(content["categories"], key=lambda category: category["id"])
        id_to_class = metadata.get("thing_dataset_id_to_contiguous_id") or {
            category["id"]: number for number, category in enumerate(categories)
        }
        self._split_of = {id_to_class[c["id"]]: c.get("split") for c in categories}
        self._truth: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
        for one in content["annotations"]:
            if not one.get("iscrowd", 0):
                truth = one["bbox"], id_to_class[one["category_id"]]
                self._truth[one["image_id"]].append(truth)
        self._image_ids = {image["id"] for image in content["images"]}
        self.protocol = Protocol(
            dataset_name,
            annotations_of(self._json_file),
            prompts_of([category["name"] for category in categories]),
            "all that the model gave",
            f"accuracy of names; of detections with IoU >= {MIN_IOU} the best names a box",
        )
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._seen: list[Any] = []
        # Of each class: boxes, those found, those named rightly.
        self._counts = np.zeros((len(self._split_of), 3), dtype=np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Name the boxes of some images.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: ``pred_boxes`` XYXY in px of the original, ``scores``,
                ``pred_classes``.

        Raises:
            UserError: an image is not in the annotations, or a score or a box is not finite.
        """
        for record, output in zip(inputs, outputs, strict=True):
            image_id, instances = record["image_id"], output["instances"].to("cpu")
            check_known(image_id, self._image_ids, self._json_file)
            check_finite(image_id, instances)
            self._seen.append(image_id)
            truth = self._truth[image_id]
            if not truth:
                continue
            boxes = torch.tensor([box for box, _ in truth], dtype=torch.float32)
            boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            names = names_of_boxes(Boxes(boxes), instances)
            for (_, own), name in zip(truth, names, strict=True):
                self._counts[own] += (1, name is not None, name == own)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"names": {"accuracy", "found", "chance", "accuracy-SPLIT"...}}, percent; NaN of nothing.

        None on processes but the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        counts = sum_over_processes(
            self._counts, self._seen, self.protocol.dataset, self._distributed
        )
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
        if self._folder:
            path = Path(self._folder) / "name_accuracy.json"
            write_results(path, self.protocol, {"names": results})
        return {"names": results}


def names_of_boxes(boxes: Boxes, instances: Any) -> list[int | None]:
    """The class that detections give to each of N boxes; None where none overlaps enough."""
    if not len(instances):
        return [None] * len(boxes)
    overlap = pairwise_iou(boxes, instances.pred_boxes)  # (N, detections)
    # The best score, and of those that have it, the best overlap.
    score = instances.scores.expand_as(overlap).masked_fill(overlap < MIN_IOU, -1)
    best, _ = score.max(dim=1)
    chosen = overlap.masked_fill(score < best[:, None], -1).argmax(dim=1)
    classes = instances.pred_classes[chosen].tolist()
    return [name if top >= 0 else None for name, top in zip(classes, best.tolist(), strict=True)]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")
