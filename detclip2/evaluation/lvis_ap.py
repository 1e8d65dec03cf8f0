"""LVIS's average precision, one class at a time."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from detclip2.data.io.coco_json import checked_coco, read_json
from detclip2.data.io.coco_parser import KEYS, Content, Entry
from detclip2.evaluation.coco_api import METRICS as COCO_METRICS
from detclip2.evaluation.coco_api import by_category, curves, mean_of, means, with_masks
from detclip2.evaluation.detections import ByClass, Detections
from detclip2.evaluation.mask_file import MaskFile
from detclip2.utils.errors import UserError, shown

_FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}  # rare, common, frequent
METRICS = (*COCO_METRICS, *_FREQUENCIES)

# Keys that LVIS's protocol reads.
_KEYS = {
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "frequency"),
    "annotations": ("image_id", "category_id", "bbox", "area"),
}


class Annotations:
    """Annotations for LVIS's protocol, by class.

    Args:
        content: of the json, from `read_lvis_json`; its polygons are dropped, because they take
            most of the memory.
        masks_of: the file's name, to keep the masks as RLE; None: boxes alone.

    Raises:
        UserError: see `with_masks`.
    """

    def __init__(self, content: Content, masks_of: str | None = None) -> None:
        self.images = frozenset(image["id"] for image in content["images"])
        self.categories = sorted(content["categories"], key=lambda category: category["id"])
        self.category_ids: list[int] = [category["id"] for category in self.categories]
        """Ids of the json; a class is a position in this list."""
        annotations = content["annotations"]
        if masks_of is not None:
            annotations = with_masks(masks_of, content["images"], annotations)
        else:
            for annotation in annotations:
                annotation.pop("segmentation", None)
        self._boxes = by_category(one for one in annotations if one["image_id"] in self.images)
        self._absent: dict[int, list[int]] = defaultdict(list)
        self._not_exhaustive: dict[int, set[int]] = defaultdict(set)
        for image in content["images"]:
            for category_id in image["neg_category_ids"]:
                self._absent[category_id].append(image["id"])
            for category_id in image["not_exhaustive_category_ids"]:
                self._not_exhaustive[category_id].add(image["id"])

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.category_ids)

    def precision(
        self, index: int, detections: Detections, masks: MaskFile | None
    ) -> NDArray[np.float64]:
        """(10 IoU thresholds, 101 recalls, 4 ranges of area) of a class, -1 without boxes to find.

        Detections in images that are not known to have the class or not are ignored.

        Args:
            index: the class.
            detections: of the class.
            masks: of the detections, to measure these in place of the boxes.
        """
        category_id = self.category_ids[index]
        boxes = self._boxes[category_id]
        if not boxes:
            return curves([], []).precision[..., 0]
        images = {box["image_id"] for box in boxes}.union(self._absent[category_id])
        known = detections[np.isin(detections["image"], list(images))]
        columns = (known["image"].tolist(), known["box"].tolist(), known["score"].tolist())
        found: list[Entry] = [
            {"image_id": image_id, "bbox": box, "score": score}
            for image_id, box, score in zip(*columns, strict=True)
        ]
        if masks is not None:
            for one, place in zip(found, known["mask"].tolist(), strict=True):
                one["segmentation"] = masks.read(place)
        # No limit: the detections that are given are those that count.
        limits = (max(1, len(found)),)
        task = "bbox" if masks is None else "segm"
        partial = self._not_exhaustive[category_id]
        return curves(boxes, found, limits, task, partial).precision[..., 0]

    def summarize(self, precision: NDArray[np.float64]) -> dict[str, float]:
        """The means that LVIS reports.

        Args:
            precision: (10 IoU thresholds, 101 recalls, C, 4 ranges of area), -1 where undefined.

        Returns:
            Percent by the names of `METRICS`; NaN without boxes to find. If categories have a
            ``split``, as those of EmojiScenes, also "AP-SPLIT" and "AP50-SPLIT" for each.
        """
        results = means(precision)
        for name, frequency in _FREQUENCIES.items():
            results[name] = mean_of(precision[:, :, self._which("frequency", frequency), 0])
        for split in dict.fromkeys(c["split"] for c in self.categories if c.get("split")):
            of_split = precision[:, :, self._which("split", split), 0]
            results[f"AP-{split}"] = mean_of(of_split)
            results[f"AP50-{split}"] = mean_of(of_split[0])
        return results

    def _which(self, key: str, value: str) -> list[int]:
        return [i for i, category in enumerate(self.categories) if category.get(key) == value]


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
    of_classes = [annotations.precision(i, detections[i], masks) for i in range(len(detections))]
    return annotations.summarize(np.stack(of_classes, axis=2))


def read_lvis_json(path: str) -> Content:
    """The content of a json of LVIS, read as by `read_coco_json`.

    Raises:
        UserError: see `read_coco_json`; or an entry lacks a key that LVIS's protocol reads, the id
            of an image or a category is not an integer, or the frequency of a category is not
            LVIS's. The message names the file and the entry.
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
    for position, category in enumerate(content["categories"]):
        if category["frequency"] not in _FREQUENCIES.values():
            raise UserError(
                f"{path}: categories[{position}] has the frequency {shown(category['frequency'])}; "
                "LVIS's are 'r', 'c' and 'f'"
            )
    return content
