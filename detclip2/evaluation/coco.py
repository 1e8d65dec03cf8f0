"""COCO's average precision, with Detectron2's evaluator."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2 import evaluation
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from detclip2.data.io.coco_json import read_coco_json
from detclip2.evaluation.checks import check_finite, check_known, write_results
from detclip2.evaluation.protocol import Protocol, annotations_of, prompts_of
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class CheckedCOCOEvaluator(evaluation.COCOEvaluator):
    """Detectron2's evaluator of boxes, which says its protocol and what it cannot measure.

    It logs one line with its protocol, writes ``results.json`` beside Detectron2's files
    (``coco_instances_results.json`` has the detections in COCO's format), and gives a model that
    detects nothing an AP of 0.

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's format.
        tasks: only ("bbox",).
        distributed: gather the detections of all processes on the main one.
        output_dir: where files go; None writes nothing.
        max_dets_per_image: the best detections of an image that count; 100 in COCO's protocol.
        prompts: what the model is asked for, in words, for the protocol.

    Raises:
        UserError: the annotations cannot be read, lack a key, or have no images.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox",),
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
        prompts: str | None = None,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        content = None
        if hasattr(metadata, "json_file"):  # before it is read by what would fail without words
            content = read_coco_json(metadata.json_file, ("area", "iscrowd"))
        super().__init__(
            dataset_name, tuple(tasks), distributed, output_dir,
            max_dets_per_image=max_dets_per_image,
        )  # fmt: skip
        self._json_file = metadata.json_file
        content = content or read_coco_json(self._json_file)
        self._image_ids = {image["id"] for image in content["images"]}
        self._has_boxes = bool(content["annotations"])
        if any(annotation["id"] == 0 for annotation in content["annotations"]):
            logger.warning(
                "%s: COCO's evaluation takes the box with id 0 for one that nobody found; number "
                "annotations from 1",
                self._json_file,
            )
        self._folder = output_dir
        self._gathers = distributed
        self.protocol = Protocol(
            dataset_name,
            annotations_of(self._json_file),
            prompts or prompts_of([category["name"] for category in content["categories"]]),
            f"the best {max_dets_per_image} of an image",
            "standard AP, IoU 0.50:0.95",
        )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As Detectron2's; refuses unknown images, and scores and boxes that are not finite."""
        for record, output in zip(inputs, outputs, strict=True):
            check_known(record["image_id"], self._image_ids, self._json_file)
            check_finite(record["image_id"], output["instances"])
        super().process(inputs, outputs)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """As Detectron2's: {"bbox": {"AP": ..., ...}} in percent; {} on processes but the main.

        Raises:
            UserError: no image was evaluated.
        """
        results: dict[str, Any] = super().evaluate(img_ids)
        if self._gathers and not comm.is_main_process():
            return results
        if not results:
            raise UserError(f"{self.protocol.dataset}: no image was evaluated")
        if self._has_boxes and math.isnan(results["bbox"]["AP"]):
            results["bbox"].update(AP=0.0, AP50=0.0, AP75=0.0)  # nothing was detected
        logger.info("%s", self.protocol)
        if self._folder:
            write_results(Path(self._folder) / "results.json", self.protocol, results)
        return results
