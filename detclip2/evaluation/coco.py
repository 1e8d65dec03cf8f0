"""COCO's average precision, with Detectron2's evaluator."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from detectron2 import evaluation
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from detclip2.data.io.coco_json import read_coco_json
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class CheckedCOCOEvaluator(StreamingEvaluator, evaluation.COCOEvaluator):
    """Detectron2's evaluator of boxes, with its protocol and errors for what it cannot measure.

    It logs one line with its protocol, writes ``results.json`` beside Detectron2's files
    (``coco_instances_results.json`` has the detections in COCO's format), and gives a model that
    detects nothing an AP of 0.

    Args:
        dataset_name: a registered data set; its metadata has a ``json_file`` in COCO's format.
        tasks: only ("bbox",).
        distributed: gather the detections of all processes on the main one.
        output_dir: folder for the files; None writes nothing.
        max_dets_per_image: detections of an image that count, the best first; 100 in COCO's
            protocol.

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
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        content = None
        if hasattr(metadata, "json_file"):  # check it before Detectron2 reads it
            content = read_coco_json(metadata.json_file, ("area", "iscrowd"))
        evaluation.COCOEvaluator.__init__(
            self, dataset_name, tuple(tasks), distributed, output_dir,
            max_dets_per_image=max_dets_per_image,
        )  # fmt: skip
        json_file = metadata.json_file
        content = content or read_coco_json(json_file)
        self._has_boxes = bool(content["annotations"])
        if any(annotation["id"] == 0 for annotation in content["annotations"]):
            logger.warning(
                "%s: COCO's evaluation never counts the box with id 0 as found; number "
                "annotations from 1",
                json_file,
            )
        protocol = Protocol(
            dataset_name,
            annotations_of(json_file),
            f"the best {max_dets_per_image} of an image",
            "standard AP, IoU 0.50:0.95",
        )
        image_ids = {image["id"] for image in content["images"]}
        StreamingEvaluator.__init__(self, protocol, image_ids, json_file, distributed, output_dir)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Check detections, then process them as Detectron2 does.

        Raises:
            UserError: see `StreamingEvaluator.check`.
        """
        self.check(inputs, outputs)
        evaluation.COCOEvaluator.process(self, inputs, outputs)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """{"bbox": {"AP": ..., ...}} in percent; {} on processes other than the main one.

        Raises:
            UserError: no image was evaluated.
        """
        results: dict[str, Any] = evaluation.COCOEvaluator.evaluate(self, img_ids)
        if self._distributed and not comm.is_main_process():
            return results
        if not results:
            raise UserError(f"{self.protocol.dataset}: no image was evaluated")
        if self._has_boxes and math.isnan(results["bbox"]["AP"]):
            results["bbox"].update(AP=0.0, AP50=0.0, AP75=0.0)  # nothing was detected
        logger.info("%s", self.protocol)
        self.write("results.json", results)
        return results
