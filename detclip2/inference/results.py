"""Conversion of detections to the formats of other tools."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances

from detclip2.data.io.masks import encode_mask, outlines_of
from detclip2.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv


class Labels(list[str]):
    """The labels of detections: a list that a mask can index, as other fields of Instances."""

    def __getitem__(self, item: Any) -> Any:
        """A string for an integer; Labels for a slice, a mask or indices (tensor or array)."""
        if isinstance(item, torch.Tensor | np.ndarray) and item.ndim == 1:
            item = torch.as_tensor(item)
            chosen = item.nonzero().squeeze(1) if item.dtype == torch.bool else item
            return Labels(super(Labels, self).__getitem__(i) for i in chosen.tolist())
        found = super().__getitem__(item)
        return Labels(found) if isinstance(item, slice) else found


def to_supervision(instances: Instances) -> "sv.Detections":
    """Detections of supervision: ``xyxy`` px, ``confidence``, ``class_id``, ``["class_name"]``.

    Masks, if there are any, become ``mask`` (N, H, W) bool.
    """
    import supervision as sv  # scipy and requests come with it
    from supervision.config import CLASS_NAME_DATA_FIELD

    detections = sv.Detections.from_detectron2({"instances": instances})
    detections.data[CLASS_NAME_DATA_FIELD] = np.array(instances.labels, dtype=str)
    return detections


def to_coco(
    instances: Instances,
    image_id: int | str,
    category_ids: Sequence[int] | Mapping[int, Any] | None = None,
    polygons: bool = False,
) -> list[dict[str, Any]]:
    """Entries of COCO's results: ``image_id``, ``category_id``, ``bbox`` XYWH px, ``score``.

    Of detections with masks also ``segmentation``, and ``area``, the pixels of the mask; of those
    of a video that belong to a track also its id, ``track``.

    Args:
        instances: of one image.
        image_id: its id in the data set.
        category_ids: the data set's id of each label of the vocabulary, in order or by class; None:
            the position in the vocabulary, from 0.
        polygons: whether ``segmentation`` is polygons, whose holes are filled, instead of a
            compressed RLE. A mask without a pixel has none.
    """
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    classes = instances.pred_classes.tolist()
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(
            classes if category_ids is None else [category_ids[c] for c in classes],
            boxes.tolist(),
            instances.scores.tolist(),
            strict=True,
        )
    ]
    if instances.has("pred_masks"):
        for row, mask in zip(rows, instances.pred_masks.numpy(), strict=True):
            segmentation = outlines_of(mask) if polygons else encode_mask(mask)
            row.update({"segmentation": segmentation} if segmentation else {})
            row["area"] = float(mask.sum())
    if instances.has("track_ids"):
        for row, track in zip(rows, instances.track_ids.tolist(), strict=True):
            row.update({"track": track} if track >= 0 else {})
    return rows


def to_pandas(results: Instances | Iterable[Instances]) -> "pd.DataFrame":
    """A table with one row for each detection.

    Columns: ``image`` (the position in the list, 0 for a single result), ``label``, ``score``,
    ``x1``, ``y1``, ``x2``, ``y2`` (px), ``class_id`` (the position in the vocabulary).

    Raises:
        UserError: pandas, an optional dependency, is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise UserError("tables of results need pandas: pip install pandas") from None

    listed = [results] if isinstance(results, Instances) else list(results)
    boxes = [instances.pred_boxes.tensor for instances in listed]
    x1, y1, x2, y2 = torch.cat([torch.zeros(0, 4), *boxes]).numpy().T
    counts = np.array([len(instances) for instances in listed], dtype=np.int64)
    columns = {
        "image": np.repeat(np.arange(len(listed)), counts),
        "label": np.array([label for r in listed for label in r.labels], dtype=object),
        "score": np.array([score for r in listed for score in r.scores.tolist()], np.float32),
        **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
        "class_id": np.array([c for r in listed for c in r.pred_classes.tolist()], np.int64),
    }
    return pd.DataFrame(columns)
