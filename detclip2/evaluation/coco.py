"""COCO's average precision, with Detectron2's evaluator."""

import logging
import math
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from detectron2 import evaluation
from detectron2.evaluation import coco_evaluation
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import ID_LISTS, Content
from detclip2.data.io.coco_values import id_of
from detclip2.evaluation.checks import check_masks
from detclip2.evaluation.coco_api import coco_of, with_masks
from detclip2.evaluation.federated import Federated
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class CheckedCOCOEvaluator(StreamingEvaluator, evaluation.COCOEvaluator):
    """Detectron2's evaluator of boxes and masks, with its protocol and errors.

    It logs one line with its protocol, writes ``results.json`` beside Detectron2's files
    (``coco_instances_results.json`` has the detections in COCO's format), and gives a model that
    detects nothing an AP of 0. AP is NaN if there is nothing to find: no box that is not a crowd.
    Results are "bbox" and "segm", by task.

    The annotations are read by `read_coco_json`; without ``area`` it is that of the box, and
    without ``iscrowd`` a box is no crowd.

    Annotations may be federated, as LVIS's are: detections of a category that is unknown in an
    image (`detclip2.evaluation.federated`) are dropped, and AP is that of LVIS's protocol but for
    its limit of detections.

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's format.
        tasks: ("bbox",) or ("bbox", "segm"); masks need a model with ``pred_masks``.
        distributed: gather the detections of all processes on the main one.
        output_dir: folder for the files; None writes nothing.
        max_dets_per_image: detections of an image that count, the best first; 100 in COCO's
            protocol.

    Raises:
        UserError: the annotations cannot be read, lack a key, or have no images; with "segm":
            an object has no mask that can be read.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox",),
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
    ) -> None:
        self._content: Content = {}
        self._with_masks = "segm" in tasks
        # Detectron2 reads the file by this class; its annotations are to be those of all readers.
        with mock.patch.object(coco_evaluation, "COCO", self._read):
            evaluation.COCOEvaluator.__init__(
                self, dataset_name, tuple(tasks), distributed, output_dir,
                max_dets_per_image=max_dets_per_image,
            )  # fmt: skip
        json_file = self._metadata.json_file
        annotations = self._content["annotations"]
        self._has_boxes = any(not annotation.get("iscrowd") for annotation in annotations)
        metric = "standard AP, IoU 0.50:0.95"
        metric += ", of boxes and masks" if self._with_masks else ""
        protocol = Protocol(
            dataset_name,
            annotations_of(json_file),
            f"the best {max_dets_per_image} of an image",
            f"{metric}, federated: by the known names of an image" if self._federated else metric,
        )
        image_ids = {image["id"] for image in self._content["images"]}
        StreamingEvaluator.__init__(self, protocol, image_ids, json_file, distributed, output_dir)

    def _read(self, json_file: str) -> COCO:
        """The annotations as an index, with the category ids of the registered data set."""
        self._content = content = read_coco_json(json_file)
        registered = self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        written = {id_of(identity): identity for identity in registered}
        for part, key in (("categories", "id"), ("annotations", "category_id")):
            for entry in content[part]:
                entry[key] = written.get(entry[key], entry[key])
        for image in content["images"]:
            for key in image.keys() & set(ID_LISTS):
                image[key] = [written.get(identity, identity) for identity in image[key]]
        self._federated = Federated(content)
        boxes = [*content["annotations"], *self._federated.crowds()]
        if self._with_masks:
            boxes = with_masks(json_file, content["images"], boxes)
        return coco_of(content["images"], boxes, content["categories"])

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Check detections, then process them as Detectron2 does.

        Raises:
            UserError: see `StreamingEvaluator.check`; or masks are to be evaluated, and the model
                gives none.
        """
        self.check(inputs, outputs)
        outputs = [
            {**output, "instances": self._of_tasks(output["instances"])} for output in outputs
        ]
        inputs = [{**image, "image_id": self.key_of(image)} for image in inputs]
        if self._federated:
            outputs = [
                {**output, "instances": self._known(image["image_id"], output["instances"])}
                for image, output in zip(inputs, outputs, strict=True)
            ]
        evaluation.COCOEvaluator.process(self, inputs, outputs)

    def _of_tasks(self, instances: Instances) -> Instances:
        """The detections with masks only if these are evaluated: encoding them takes time."""
        if self._with_masks:
            check_masks(instances)
            return instances
        fields = {key: v for key, v in instances.get_fields().items() if key != "pred_masks"}
        return Instances(instances.image_size, **fields)

    def _known(self, image_id: Any, instances: Instances) -> Instances:
        """The detections of categories that are known in an image."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id") or {}
        ids = {contiguous: json_id for json_id, contiguous in mapping.items()}
        classes = instances.pred_classes.tolist()
        known = self._federated.known(image_id, [ids.get(one, one) for one in classes])
        return instances[torch.BoolTensor(known.tolist())]

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """{"bbox": {"AP": ..., ...}} in percent, and "segm" if masks are evaluated; {} on processes
        other than the main one.

        Raises:
            UserError: no image was evaluated.
        """
        results: dict[str, Any] = evaluation.COCOEvaluator.evaluate(self, img_ids)
        if self._distributed and not comm.is_main_process():
            return results
        if not results:
            raise UserError(f"{self.protocol.dataset}: no image was evaluated")
        for of_task in results.values():
            if self._has_boxes and math.isnan(of_task["AP"]):
                of_task.update(AP=0.0, AP50=0.0, AP75=0.0)  # nothing was detected
        logger.info("%s", self.protocol)
        self.write("results.json", results)
        return results
