"""LVIS's average precision by the lvis package, one class at a time.

The package keeps an entry for each image and category, 24 million for LVIS's validation set.
Classes are independent until their mean is taken, and each concerns few images.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from detclip2.data.io.coco_json import checked_coco, read_json
from detclip2.data.io.coco_parser import KEYS, Content
from detclip2.evaluation.coco_api import with_masks
from detclip2.evaluation.detections import ByClass, Detections
from detclip2.evaluation.mask_file import MaskFile
from detclip2.utils.errors import UserError, shown

# The package logs each of its steps, here once per class.
_logger = logging.getLogger(f"{__name__}.lvis")
_logger.setLevel(logging.WARNING)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

# Keys that LVIS's protocol reads.
_KEYS = {
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "frequency"),
    "annotations": ("image_id", "category_id", "bbox", "area"),
}


class Annotations:
    """Annotations for LVIS's protocol, by class.

    Args:
        api: the json as the lvis package reads it; its polygons are dropped, because they take most
            of the memory.
        masks_of: the file's name, to keep the masks as RLE; None: boxes alone.

    Raises:
        UserError: see `with_masks`.
    """

    def __init__(self, api: LVIS, masks_of: str | None = None) -> None:
        self.images: frozenset[int] = frozenset(api.imgs)
        self.category_ids: list[int] = sorted(api.cats)
        """Ids of the json; a class is a position in this list."""
        self.categories: list[dict[str, Any]] = [api.cats[i] for i in self.category_ids]
        self._sizes = {
            image_id: {key: image[key] for key in ("height", "width") if key in image}
            for image_id, image in api.imgs.items()
        }
        self._boxes: dict[int, list[dict[str, Any]]] = defaultdict(list)
        annotations = api.dataset["annotations"]
        if masks_of is not None:
            annotations = with_masks(masks_of, list(api.imgs.values()), annotations)
        for annotation in annotations:
            if masks_of is None:
                annotation.pop("segmentation", None)
            if annotation.get("iscrowd"):  # not in LVIS itself
                annotation["ignore"] = 1
            if annotation["image_id"] in self.images:
                self._boxes[annotation["category_id"]].append(annotation)
        self._absent: dict[int, list[int]] = defaultdict(list)
        self._not_exhaustive: dict[int, set[int]] = defaultdict(set)
        for image_id, image in api.imgs.items():
            for category_id in image["neg_category_ids"]:
                self._absent[category_id].append(image_id)
            for category_id in image["not_exhaustive_category_ids"]:
                self._not_exhaustive[category_id].add(image_id)

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.category_ids)

    def of_class(self, index: int) -> LVIS:
        """The json of one class: images known to have it or not, and its boxes."""
        category_id = self.category_ids[index]
        boxes = self._boxes[category_id]
        known = {box["image_id"] for box in boxes}.union(self._absent[category_id])
        images = [
            {
                "id": image_id,
                **self._sizes[image_id],
                "neg_category_ids": [category_id],
                "not_exhaustive_category_ids": [category_id]
                if image_id in self._not_exhaustive[category_id]
                else [],
            }
            for image_id in sorted(known)
        ]
        # Renumbered from 1: matching treats id 0 as "no match".
        annotations = [{**box, "id": i} for i, box in enumerate(boxes, 1)]
        return _InMemory(images, annotations, [self.categories[index]])

    def summarize(self, precision: NDArray[np.float64]) -> dict[str, float]:
        """The means that LVIS reports.

        Args:
            precision: (10 IoU thresholds, 101 recalls, C, 4 ranges of area), -1 where undefined.

        Returns:
            Percent by the names of `METRICS`; NaN without boxes to find. If categories have a
            ``split``, as those of EmojiScenes, also "AP-SPLIT" and "AP50-SPLIT" for each.
        """
        nothing = _InMemory([], [], self.categories)
        total = LVISEval(nothing, nothing, "bbox")
        total.freq_groups = total._prepare_freq_group()
        recall = np.full((precision.shape[0], *precision.shape[2:]), -1.0)  # not reported here
        total.eval = {"precision": precision, "recall": recall}
        total.summarize()
        results = {name: float(total.get_results()[name]) for name in METRICS}
        for split in dict.fromkeys(c["split"] for c in self.categories if c.get("split")):
            members = [i for i, c in enumerate(self.categories) if c.get("split") == split]
            of_split = precision[:, :, members, 0]
            results[f"AP-{split}"] = _mean_of_defined(of_split)
            results[f"AP50-{split}"] = _mean_of_defined(of_split[0])
        return {name: 100 * ap if ap > -1 else float("nan") for name, ap in results.items()}


def _mean_of_defined(precision: NDArray[np.float64]) -> float:
    """The mean of values other than -1, as LVIS defines it; -1 if there is none."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


class _InMemory(LVISResults):
    """Truth or results of the lvis package, made from lists instead of a file."""

    def __init__(self, images: list[Any], annotations: list[Any], categories: list[Any]) -> None:
        self.logger = _logger
        self.dataset = {"images": images, "annotations": annotations, "categories": categories}
        self._create_index()


def average_precision(
    annotations: Annotations, detections: ByClass, masks: MaskFile | None = None
) -> dict[str, float]:
    """LVIS's average precision of all given detections; no limit is applied.

    Args:
        annotations: with masks, if masks are given.
        detections: by class.
        masks: of the detections, to evaluate these in place of the boxes.

    Returns:
        Percent by the names of `METRICS`; NaN without boxes to find.
    """
    of_classes = [
        _precision(annotations.of_class(i), detections[i], masks) for i in range(len(detections))
    ]
    return annotations.summarize(np.concatenate(of_classes, axis=2))


def _precision(truth: LVIS, detections: Detections, masks: MaskFile | None) -> NDArray[np.float64]:
    """(10 IoU thresholds, 101 recalls, 1, 4 ranges of area), -1 without boxes to find."""
    if not truth.anns:
        return np.full((10, 101, 1, 4), -1.0)
    images, categories = truth.dataset["images"], truth.dataset["categories"]
    known = detections[np.isin(detections["image"], list(truth.imgs))]
    category_id = categories[0]["id"]
    results = [
        {
            "id": i,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
        }
        for i, (image_id, box, score) in enumerate(
            zip(
                known["image"].tolist(),
                known["box"].tolist(),
                known["score"].tolist(),
                strict=True,
            ),
            1,
        )
    ]
    if masks is not None:
        for result, place in zip(results, known["mask"].tolist(), strict=True):
            rle = masks.read(place)
            result.update(segmentation=rle, area=float(coco_masks.area(rle)))
    task = "bbox" if masks is None else "segm"
    evaluation = LVISEval(truth, _InMemory(images, results, categories), task)
    evaluation.logger = _logger
    with numpy_with_float():
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]
    return precision


def read_lvis_json(path: str) -> Content:
    """The content of a json of LVIS, read as by `read_coco_json`.

    Raises:
        UserError: see `read_coco_json`; or an entry lacks a key that LVIS's protocol reads, or the
            id of an image or a category is not an integer. The message names the file and the
            entry.
    """
    content = read_json(path, KEYS)
    content = checked_coco(path, content)
    for part, keys in _KEYS.items():
        for position, entry in enumerate(content[part]):
            for key in keys:
                if key not in entry:
                    raise UserError(
                        f"{path}: {part}[{position}] has no valid {key!r}; LVIS's protocol needs it"
                    )
            if isinstance(entry["id"], str) and part != "annotations":
                raise UserError(
                    f"{path}: {part}[{position}] has the id {shown(entry['id'])}; LVIS's protocol "
                    "needs integers"
                )
    return content


@contextmanager
def numpy_with_float() -> Iterator[None]:
    """Restore the old name ``np.float``, which lvis 0.5.3, the last release, still uses."""
    with mock.patch.object(np, "float", float, create=True):
        yield
