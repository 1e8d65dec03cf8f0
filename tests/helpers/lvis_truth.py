"""Annotations in LVIS's format and detections for them, for tests of LVIS's evaluation."""

import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances


def write_truth(path, num_images=12, num_classes=7, seed=0):
    """Boxes of `num_classes` categories, ids from 1; one has no box, frequencies alternate."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for image_id in (rng.permutation(num_images) + 100).tolist():
        present = rng.choice(np.arange(1, num_classes), rng.integers(0, 4), replace=False).tolist()
        absent = [c for c in range(1, num_classes + 1) if c not in present and rng.random() < 0.6]
        some = [c for c in present if rng.random() < 0.3]
        images.append(
            {
                "id": image_id,
                "width": 400,
                "height": 400,
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": some,
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012}.jpg",
            }
        )
        for category_id in present:
            for _ in range(rng.integers(1, 4)):
                box = [*rng.uniform(0, 200, 2).round(1), *rng.uniform(5, 190, 2).round(1)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "segmentation": [[0, 0, 9, 0, 9, 9]],
                    }
                )
    categories = [
        {"id": i, "name": f"thing_{i}", "synonyms": [f"thing_{i}"], "frequency": "rcf"[i % 3]}
        for i in range(1, num_classes + 1)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def detect(json_file, per_image=40, seed=0, scores=None):
    """Instances by image id: true boxes, slightly moved, some with a wrong class, and false alarms.

    `scores`: values to draw from, with ties; None: all differ.
    """
    rng = np.random.default_rng(seed)
    content = json.loads(Path(json_file).read_text())
    num_classes = max(category["id"] for category in content["categories"])
    found = {}
    for image in content["images"]:
        truth = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes, classes = [], []
        for index in range(per_image):
            if truth and index < 2 * len(truth):
                annotation = truth[index % len(truth)]
                box = np.array(annotation["bbox"]) + rng.normal(0, 4, 4)
                category_id = annotation["category_id"]
            else:
                box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(5, 190, 2)])
                category_id = rng.integers(1, num_classes + 1)
            box[2:] = box[:2] + np.maximum(box[2:], 1)
            boxes.append(box)
            classes.append(int(category_id) - 1)
        drawn = rng.random(per_image) if scores is None else rng.choice(scores, per_image)
        found[image["id"]] = Instances(
            (400, 400),
            pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4)),
            pred_classes=torch.tensor(classes, dtype=torch.int64),
            scores=torch.tensor(drawn, dtype=torch.float32),
        )
    return found


def register(name, json_file):
    """Register the metadata that evaluators read."""
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(json_file=str(json_file))


def feed(evaluator, found, batch_size=1):
    """Pass detections by image id to an evaluator, `batch_size` images at once."""
    evaluator.reset()
    ids = list(found)
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        evaluator.process(
            [{"image_id": i} for i in batch], [{"instances": found[i]} for i in batch]
        )
    return evaluator
