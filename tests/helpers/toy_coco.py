"""A small data set in COCO's format with corner cases, and detections for it."""

import json

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

NAMES = ("fish", "crab", "eel")
IDS = (3, 7, 8)


def content(num_images=8, seed=0):
    """Boxes of all sizes, a crowd, an image without boxes; `area` smaller than the box, as masks
    have it."""
    rng = np.random.default_rng(seed)
    boxes = []
    for image_id in range(1, num_images):  # none in the last
        for _ in range(int(rng.integers(1, 7))):
            size = rng.choice([12, 50, 130]) * rng.uniform(0.8, 1.2, 2)
            x, y = rng.uniform(0, 200, 2)
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(IDS)),
                    "bbox": [float(x), float(y), *map(float, size)],
                    "area": float(0.9 * size.prod()),
                    "iscrowd": int(len(boxes) == 3),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 360, "width": 360}
            for i in range(1, num_images + 1)
        ],
        "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in zip(IDS, NAMES, strict=True)],
    }


def register(name, truth, folder):
    """Write the annotations and set the metadata; returns the file."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(truth))
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=list(NAMES),
        thing_dataset_id_to_contiguous_id={identity: i for i, identity in enumerate(IDS)},
    )
    return path


def detections(truth, seed=0, strays=20):
    """Image id -> Instances: most boxes, moved, some under two names, and false alarms."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in truth["images"]:
        boxes, classes = [], []
        for box in truth["annotations"]:
            if box["image_id"] == image["id"] and rng.random() < 0.8:
                x, y, w, h = box["bbox"]
                for name in [IDS.index(box["category_id"])] + [0] * (rng.random() < 0.3):
                    boxes.append(np.array([x, y, x + w, y + h]) + rng.normal(0, 0.06 * w, 4))
                    classes.append(name)
        for _ in range(strays):
            corner = rng.uniform(0, 300, 2)
            boxes.append(np.concatenate([corner, corner + rng.uniform(5, 60, 2)]))
            classes.append(int(rng.integers(len(NAMES))))
        found[image["id"]] = Instances(
            (image["height"], image["width"]),
            pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)),
            scores=torch.tensor(rng.permutation(len(boxes)) / len(boxes), dtype=torch.float32),
            pred_classes=torch.tensor(classes),
        )
    return found


def feed(evaluator, found, batch_size=3):
    """Pass all detections to an evaluator."""
    evaluator.reset()
    items = list(found.items())
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        evaluator.process(
            [{"image_id": image_id} for image_id, _ in batch],
            [{"instances": instances} for _, instances in batch],
        )
    return evaluator


def as_results(found):
    """COCO's json of results, written without the project's code."""
    return [
        {
            "image_id": image_id,
            "category_id": IDS[int(name)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for image_id, instances in found.items()
        for (x1, y1, x2, y2), name, score in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.pred_classes,
            instances.scores,
            strict=True,
        )
    ]
