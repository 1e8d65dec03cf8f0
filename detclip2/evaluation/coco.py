"""COCO's average precision of boxes and masks."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import Entry
from detclip2.data.io.coco_values import id_of, order_of_id
from detclip2.evaluation.checks import check_masks
from detclip2.evaluation.coco_api import METRICS, average_precision, with_masks
from detclip2.evaluation.federated import Federated
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.inference.results import to_coco
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)


class CheckedCOCOEvaluator(StreamingEvaluator):
    """The results of Detectron2's COCOEvaluator, with a protocol and errors.

    It logs one line with its protocol, and writes ``results.json`` and
    ``coco_instances_results.json``, the detections in COCO's format. A model that detects nothing
    has an AP of 0; AP is NaN if there is nothing to find: no box that is not a crowd. Results are
    "bbox" and "segm", by task.

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
        max_dets_per_image: detections of an image and category that count, the best first; 100 in
            COCO's protocol.

    Raises:
        UserError: there is no ``json_file``; the annotations cannot be read, lack a key, or have no
            images; `tasks` are others; with "segm": an object has no mask that can be read.
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
        if not tasks or not set(tasks) <= {"bbox", "segm"}:
            raise UserError(
                "CheckedCOCOEvaluator evaluates boxes, tasks=['bbox'], and masks, "
                f"tasks=['bbox', 'segm'], not {list(tasks or ())}"
            )
        self._tasks = list(tasks)
        self._limit = max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        if not self._metadata.get("json_file"):
            raise UserError(f"data set {dataset_name!r} has no json_file: register it before")
        json_file = PathManager.get_local_path(str(self._metadata.json_file))
        self.content = content = read_coco_json(json_file)
        """The annotations."""
        self._federated = Federated(content)
        self._boxes = content["annotations"]
        if "segm" in tasks:
            self._boxes = with_masks(json_file, content["images"], self._boxes)
        self._category_ids = sorted((c["id"] for c in content["categories"]), key=order_of_id)
        registered = self._metadata.get("thing_dataset_id_to_contiguous_id")
        self._class_of = {id_of(i): c for i, c in (registered or {}).items()} or {
            i: i for i in self._category_ids
        }
        self._id_of = {of_model: identity for identity, of_model in self._class_of.items()}
        metric = "standard AP, IoU 0.50:0.95"
        metric += ", of boxes and masks" if "segm" in tasks else ""
        protocol = Protocol(
            dataset_name,
            annotations_of(json_file),
            f"the best {max_dets_per_image} of an image",
            f"{metric}, federated: by the known names of an image" if self._federated else metric,
        )
        image_ids = {image["id"] for image in content["images"]}
        super().__init__(protocol, image_ids, json_file, distributed, output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self.detections: list[Entry] = []
        """In COCO's format of results; after `evaluate` those of all processes, on the main one."""
        self._num_images = 0

    def add(self, key: Any, instances: Instances) -> None:
        """Add the detections of an image.

        Raises:
            UserError: a class has no category in the annotations; masks are to be evaluated, and
                the model gives none.
        """
        if "segm" in self._tasks:
            check_masks(instances)
        elif instances.has("pred_masks"):  # to encode them takes time
            instances.remove("pred_masks")
        if unknown := set(instances.pred_classes.tolist()) - self._id_of.keys():
            raise UserError(
                f"a detection is of class {min(unknown)}, for which {self._annotations_file} has "
                "no category: the model detects other names than those of "
                f"{self.protocol.dataset!r}"
            )
        found = to_coco(instances, key, self._id_of)
        known = self._federated.known(key, [one["category_id"] for one in found])
        self.detections += [one for one, is_known in zip(found, known, strict=True) if is_known]
        self._num_images += 1

    def evaluate(self) -> dict[str, Any]:
        """{"bbox": {"AP": ..., ...}} in percent, and "segm" if masks are evaluated; {} on processes
        other than the main one.

        The metrics are `METRICS`, and "AP-{name}" if the data set has more than one name.

        Raises:
            UserError: no image was evaluated.
        """
        parts = self.gather((self._num_images, self.detections))
        if parts is None:
            return {}
        if not sum(number for number, _ in parts):
            raise UserError(f"{self.protocol.dataset}: no image was evaluated")
        self.detections = [one for _, of_process in parts for one in of_process]
        results = {task: self._measure(task) for task in self._tasks}
        logger.info("%s", self.protocol)
        for task, metrics in results.items():
            table = create_small_table({name: metrics[name] for name in METRICS})
            logger.info("Evaluation results for %s:\n%s", task, table)
        if self._folder is not None:
            text = json.dumps(self.detections).encode()
            path = self._folder / "coco_instances_results.json"
            write_whole(path, lambda file: file.write(text))
        self.write("results.json", results)
        return results

    def _measure(self, task: str) -> dict[str, float]:
        metrics, of_classes = average_precision(
            self._category_ids,
            self._boxes,
            self.detections,
            self._limit,
            task,
            self._federated.partial_images(),
        )
        names = self._metadata.get("thing_classes") or []
        if len(names) > 1:
            for category_id, ap in of_classes.items():
                if category_id in self._class_of:
                    metrics[f"AP-{names[self._class_of[category_id]]}"] = ap
        return metrics
