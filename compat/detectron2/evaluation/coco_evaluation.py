"""Average precision of boxes and masks by COCO's protocol, with pycocotools."""

import contextlib
import io
import json
import logging
import os
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from detectron2 import _subset
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator

__all__ = ["COCOEvaluator"]

logger = logging.getLogger(__name__)

# Name -> threshold of IoU (None: the mean over all), range of areas.
_METRICS = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


class COCOEvaluator(DatasetEvaluator):
    """AP, in percent, of the `Instances` that a model returns under "instances".

    Args:
        dataset_name: its metadata has a `json_file` in COCO format, or it is a data set of
            records, which is then written as such a file to `output_dir`.
        tasks: of ("bbox", "segm"); None: both if the model gives masks, else boxes.
        distributed: gather the detections of all processes on the main one; the others return {}.
        output_dir: where to write the detections, "instances_predictions.pth" and
            "coco_instances_results.json" (COCO's format of results); nothing is written if None.
        max_dets_per_image: the best detections of an image that count, 100 if None.
        use_fast_impl: accepted; it is always pycocotools that evaluates.
        kpt_oks_sigmas: accepted; there are no keypoints.
        allow_cached_coco: use the file that an earlier run has written.
    """

    def __init__(
        self,
        dataset_name,
        tasks=None,
        distributed=True,
        output_dir=None,
        *,
        max_dets_per_image=None,
        use_fast_impl=True,
        kpt_oks_sigmas=(),
        allow_cached_coco=True,
    ):
        self._tasks = _checked_tasks(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 100 if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(
                    f"data set '{dataset_name}' has no json_file, so COCOEvaluator has to write "
                    "one: give it an output_dir"
                )
            json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached_coco)
            self._metadata.json_file = json_file
        json_file = PathManager.get_local_path(self._metadata.json_file)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(json_file)

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """`inputs` have an "image_id"; `outputs` have "instances" in pixels of the original."""
        self._predictions.extend(_collect_predictions(inputs, outputs))

    def evaluate(self, img_ids=None):
        """{task: {"AP": ..., "AP50": ..., ..., "AP-name of class": ...}}, NaN where undefined.

        `img_ids`: evaluate on these images only.
        """
        predictions = _gather_predictions(self._predictions, self._distributed)
        if not comm.is_main_process() and self._distributed:
            return {}
        if not predictions:
            logger.warning("[COCOEvaluator] no predictions were processed")
            return {}
        _save_predictions(predictions, self._output_dir)
        detections = self._with_ids_of_json(predictions)
        _save_detections(detections, self._output_dir, "coco_instances_results.json")
        if "annotations" not in self._coco_api.dataset:
            logger.info("no annotations to evaluate with")
            return {}
        return {
            task: self._evaluate_task(task, detections, img_ids)
            for task in self._tasks or _tasks_of(detections)
        }

    def _with_ids_of_json(self, predictions):
        """All detections, with the json's category ids."""
        detections = [{**d} for prediction in predictions for d in prediction["instances"]]
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return detections
        json_ids = {new: old for old, new in mapping.items()}
        assert set(json_ids) == set(range(len(mapping))), mapping
        for detection in detections:
            category_id = detection["category_id"]
            assert category_id in json_ids, (
                f"a detection has class {category_id}, but the data set {len(mapping)} classes"
            )
            detection["category_id"] = json_ids[category_id]
        return detections

    def _evaluate_task(self, task, detections, img_ids):
        if not detections:
            logger.warning("[COCOEvaluator] the model has detected nothing")
            return dict.fromkeys(_METRICS, float("nan"))
        found = self._coco_api.loadRes(_for_task(task, detections))
        evaluation = COCOeval(self._coco_api, found, task)
        evaluation.params.maxDets = [1, 10, self._max_dets]
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
        if self._max_dets == 100:
            evaluation.summarize()  # it supports no other limit
        precision = evaluation.eval["precision"][..., -1]  # (IoU, recall, class, area)
        results = {name: _mean(precision, evaluation.params, *m) for name, m in _METRICS.items()}
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(results))
        return {**results, **self._of_classes(task, precision, evaluation.params)}

    def _of_classes(self, task, precision, params):
        names = self._metadata.get("thing_classes") or []
        if len(names) <= 1:
            return {}
        assert len(names) == precision.shape[2], (
            f"{len(names)} thing_classes, but {precision.shape[2]} categories in the json"
        )
        per_class = {
            name: _mean(precision[:, :, i : i + 1], params) for i, name in enumerate(names)
        }
        rows = list(per_class.items())
        columns = min(3, len(rows))
        table = tabulate(
            [list(chain(*rows[i : i + columns])) for i in range(0, len(rows), columns)],
            headers=["category", "AP"] * columns,
            tablefmt="pipe",
            floatfmt=".3f",
        )
        logger.info("Per-category %s AP:\n%s", task, table)
        return {f"AP-{name}": ap for name, ap in per_class.items()}


def _mean(precision, params, iou=None, area="all"):
    """The mean precision in percent; entries of -1 have no ground truth."""
    chosen = precision[..., params.areaRngLbl.index(area)]
    if iou is not None:
        chosen = chosen[np.isclose(params.iouThrs, iou)]
    defined = chosen[chosen > -1]
    return float(100 * np.mean(defined)) if defined.size else float("nan")


def _checked_tasks(tasks):
    for task in tasks or ():
        assert task in ("bbox", "segm", "keypoints"), f"'{task}' is no task of evaluation"
        if task == "keypoints":
            raise NotImplementedError(_subset.not_here(f"Evaluation of '{task}'"))
    return None if tasks is None else tuple(tasks)


def _tasks_of(detections):
    """The tasks that detections allow."""
    has_masks = any("segmentation" in detection for detection in detections)
    return ("bbox", "segm") if has_masks else ("bbox",)


def _for_task(task, detections):
    """The detections without their boxes for "segm": areas are to be those of the masks."""
    if task == "bbox":
        return detections
    return [{key: d[key] for key in d if key != "bbox"} for d in detections]


def _collect_predictions(inputs, outputs):
    """The detections of each image, as dicts, under its id."""
    for image, output in zip(inputs, outputs, strict=False):
        if "proposals" in output:
            raise NotImplementedError(_subset.not_here("Evaluation of proposals"))
        if "instances" in output:
            instances = output["instances"].to(torch.device("cpu"))
            image_id = image["image_id"]
            yield {"image_id": image_id, "instances": instances_to_coco_json(instances, image_id)}


def _gather_predictions(predictions, distributed):
    if not distributed:
        return predictions
    comm.synchronize()
    return list(chain.from_iterable(comm.gather(predictions, dst=0)))


def _save_predictions(predictions, output_dir):
    if output_dir:
        PathManager.mkdirs(output_dir)
        path = os.path.join(output_dir, "instances_predictions.pth")
        with PathManager.open(path, "wb") as file:
            torch.save(predictions, file)


def _save_detections(detections, output_dir, file_name):
    if output_dir:
        path = os.path.join(output_dir, file_name)
        logger.info("Saving results to %s", path)
        with PathManager.open(path, "w") as file:
            json.dump(detections, file)


def instances_to_coco_json(instances, img_id):
    """Detections in COCO's format: dicts of "image_id", "category_id", "bbox" (XYWH), "score".

    "category_id" is the class, from 0. With `pred_masks` (N, H, W) also "segmentation", an RLE.
    """
    if instances.has("pred_keypoints"):
        raise NotImplementedError(_subset.not_here("Evaluation of pred_keypoints"))
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns = (instances.pred_classes.tolist(), boxes.tolist(), instances.scores.tolist())
    detections = [
        {"image_id": img_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(*columns, strict=True)
    ]
    if instances.has("pred_masks"):
        for detection, mask in zip(detections, instances.pred_masks, strict=True):
            rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
            detection["segmentation"] = {**rle, "counts": rle["counts"].decode("utf-8")}
    return detections
