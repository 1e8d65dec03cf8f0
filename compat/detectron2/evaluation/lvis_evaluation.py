"""Average precision of boxes and masks by LVIS's protocol, with the lvis package."""

import logging
from unittest import mock

import numpy as np

from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .coco_evaluation import (
    _checked_tasks,
    _collect_predictions,
    _for_task,
    _gather_predictions,
    _save_detections,
    _save_predictions,
    _tasks_of,
)
from .evaluator import DatasetEvaluator

__all__ = ["LVISEvaluator"]

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class LVISEvaluator(DatasetEvaluator):
    """AP, in percent, of the `Instances` that a model returns under "instances".

    Args:
        dataset_name: its metadata has a `json_file` in LVIS format.
        tasks: of ("bbox", "segm"); None: both if the model gives masks, else boxes.
        distributed: gather the detections of all processes on the main one; the others return None.
        output_dir: where to write the detections, "instances_predictions.pth" and
            "lvis_instances_results.json" (LVIS's format of results); nothing is written if None.
        max_dets_per_image: the best detections of an image that count, 300 if None.
    """

    def __init__(
        self,
        dataset_name,
        tasks=None,
        distributed=True,
        output_dir=None,
        *,
        max_dets_per_image=None,
    ):
        from lvis import LVIS  # of all that is here, this alone needs the package

        self._tasks = _checked_tasks(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 300 if max_dets_per_image is None else max_dets_per_image
        # Subclasses read _metadata and _lvis_api, as they do of the real one.
        self._metadata = MetadataCatalog.get(dataset_name)
        self._lvis_api = LVIS(PathManager.get_local_path(self._metadata.json_file))

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """`inputs` have an "image_id"; `outputs` have "instances" in pixels of the original."""
        self._predictions.extend(_collect_predictions(inputs, outputs))

    def evaluate(self):
        """{task: {"AP": ..., "APr": ..., "APc": ..., "APf": ..., ...}}."""
        predictions = _gather_predictions(self._predictions, self._distributed)
        if self._distributed and not comm.is_main_process():
            return None
        if not predictions:
            logger.warning("[LVISEvaluator] no predictions were processed")
            return {}
        _save_predictions(predictions, self._output_dir)
        detections = self._with_ids_of_json(predictions)
        _save_detections(detections, self._output_dir, "lvis_instances_results.json")
        if not self._lvis_api.anns:
            logger.info("no annotations to evaluate with")
            return {}
        return {
            task: self._evaluate_task(task, detections)
            for task in self._tasks or _tasks_of(detections)
        }

    def _with_ids_of_json(self, predictions):
        """All detections; category ids count from 1 unless the metadata maps them."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        json_ids = mapping and {new: old for old, new in mapping.items()}
        return [
            {**d, "category_id": json_ids[d["category_id"]] if json_ids else d["category_id"] + 1}
            for prediction in predictions
            for d in prediction["instances"]
        ]

    def _evaluate_task(self, task, detections):
        from lvis import LVISEval, LVISResults

        if not detections:
            logger.warning("[LVISEvaluator] the model has detected nothing")
            return dict.fromkeys(_METRICS, float("nan"))
        found = _for_task(task, detections)
        results = LVISResults(self._lvis_api, found, max_dets=self._max_dets)
        evaluation = LVISEval(self._lvis_api, results, task)
        # lvis 0.5.3, the last release, uses np.float, which numpy 2 does not have.
        with mock.patch.object(np, "float", float, create=True):
            evaluation.run()
        evaluation.print_results()
        all_metrics = evaluation.get_results()
        metrics = {name: float(100 * all_metrics[name]) for name in _METRICS}
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(metrics))
        return metrics
