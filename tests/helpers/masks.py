"""Masks for detections and annotations of tests: the ellipse in each box."""

import json
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_masks


def ellipse(box, height, width):
    """The pixels whose centres are in the ellipse of a box XYXY, (H, W) bool."""
    y, x = np.mgrid[:height, :width] + 0.5
    x0, y0, x1, y1 = box
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1


def rle(mask):
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def with_masks(found):
    """The same detections, by image id, with masks."""
    for instances in found.values():
        height, width = instances.image_size
        boxes = instances.pred_boxes.tensor.tolist()
        masks = np.zeros((len(boxes), height, width), dtype=bool)
        for mask, box in zip(masks, boxes, strict=True):
            mask[:] = ellipse(box, height, width)
        instances.pred_masks = torch.from_numpy(masks)
    return found


def annotated(path):
    """Give each annotation of a json a mask, in turn as polygons, RLE, and runs; its content."""
    content = json.loads(Path(path).read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for number, one in enumerate(content["annotations"]):
        x, y, w, h = one["bbox"]
        height, width = sizes[one["image_id"]]
        mask = ellipse((x, y, x + w, y + h), height, width)
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        outline = np.stack(
            [x + w / 2 + w / 2 * np.cos(angles), y + h / 2 + h / 2 * np.sin(angles)], axis=1
        )
        flat = mask.T.ravel()
        ends = np.flatnonzero(np.diff(flat, prepend=False)) if flat.any() else np.array([], int)
        runs = np.diff([0, *ends.tolist(), flat.size]).tolist()
        forms = [
            [outline.reshape(-1).tolist()],
            rle(mask),
            {"size": [height, width], "counts": runs},
        ]
        one["segmentation"] = forms[number % 3]
    Path(path).write_text(json.dumps(content))
    return content


def results_of(found, category_ids):
    """COCO's results of the masks alone: without boxes, areas are those of the masks."""
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(label)],
            "segmentation": rle(mask),
            "score": float(score),
        }
        for image_id, instances in found.items()
        for label, mask, score in zip(
            instances.pred_classes,
            instances.pred_masks.numpy(),
            instances.scores,
            strict=True,
        )
    ]
