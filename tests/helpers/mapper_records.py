"""Records for mappers, and deep equality of samples."""

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from detclip2.data.mappers import CaptionMapper, DetectionMapper, GroundingMapper

HEIGHT, WIDTH = 60, 80
NAMES = ["person", "dog", "cat", "hot dog", "sheep", "kite"]
NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def pixels(height=HEIGHT, width=WIDTH):
    return rng().integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(category_id=0, bbox=(10, 20, 30, 15), **fields):
    mode = fields.pop("bbox_mode", BoxMode.XYWH_ABS)
    return {"bbox": list(bbox), "bbox_mode": mode, "category_id": category_id, **fields}


def record(annotations=(), **fields):
    return {
        "image": pixels(),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 7,
        "file_name": "somewhere/a.jpg",
        "annotations": list(annotations),
        **fields,
    }


def same(a, b):
    """Deep equality of samples or records."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if hasattr(a, "gt_boxes"):
        fields = ("gt_boxes", "gt_classes")
        left, right = (torch.cat([i.gt_boxes.tensor, i.gt_classes[:, None]], 1) for i in (a, b))
        return same(left, right) and all(i.has(f) for i in (a, b) for f in fields)
    return a == b or (a != a and b != b)


def mappers():
    augmentations = [T.ResizeShortestEdge((30, 90), 120, "range"), T.RandomFlip()]
    return {
        "detection": DetectionMapper(NAMES, augmentations),
        "grounding": GroundingMapper(augmentations, negatives=NAMES),
        "caption": CaptionMapper(augmentations, noun_phrases=str.split),
    }


RECORDS = {
    "detection": record([box(1), box(2, (0, 0, 5, 5)), box(1, (NAN, 0, 1, 1)), box(3, iscrowd=1)]),
    "grounding": record(
        [box(phrases=["A dog", "the left one"]), box(bbox=(1, 1, 9, 9), phrases=["a dog"])],
        caption="A dog next to the left one",
    ),
    "caption": record(caption="a dog and a cat"),
}
