"""Time of COCO's and LVIS's evaluation against Detectron2's evaluators, on the same detections.

From the first detections to the numbers, without a model. Times are processor times, in turns. The
annotations and detections are simulated, of the sizes of a part of COCO's or LVIS's validation set.
"""

import contextlib
import importlib.util
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, LVISEvaluator
from detectron2.structures import Boxes, Instances

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.lvis import LVISFixedAPEvaluator

from .timing import spread

SIZE = 640  # px of an image's edges
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# Protocol -> names, boxes and detections of an image, Detectron2's evaluator and ours.
PROTOCOLS: dict[str, tuple[int, int, int, Callable[..., Any], Callable[..., Any]]] = {
    "COCO": (80, 7, 30, COCOEvaluator, CheckedCOCOEvaluator),
    "LVIS": (120, 12, 60, LVISEvaluator, LVISFixedAPEvaluator),
}


def measure(repeats: int, images: int = 500) -> list[dict[str, Any]]:
    """A row for each protocol whose packages are installed: LVISEvaluator needs lvis."""
    has_lvis = importlib.util.find_spec("lvis") is not None
    protocols = [name for name in PROTOCOLS if name != "LVIS" or has_lvis]
    return [against_detectron2(name, repeats, images) for name in protocols]


def against_detectron2(protocol: str, repeats: int, images: int) -> dict[str, Any]:
    """Seconds of both evaluators, and the largest difference of a metric."""
    names, boxes, detections, *evaluators = PROTOCOLS[protocol]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "annotations.json")
        truth = write_annotations(path, rng, images, names, boxes)
        found = [detected(rng, *of_image, names, detections) for of_image in truth]
        dataset = f"simulated_{protocol}"
        MetadataCatalog.get(dataset).set(
            json_file=str(path),
            thing_classes=[str(i) for i in range(names)],
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(names)},
        )
        seconds: tuple[list[float], list[float]] = ([], [])
        results = [{}, {}]
        for repeat in range(repeats):
            for which in ((0, 1), (1, 0))[repeat % 2]:
                evaluator = evaluators[which](dataset, tasks=["bbox"], output_dir=folder)
                results[which], taken = timed(evaluator, found)
                seconds[which].append(taken)
        MetadataCatalog.pop(dataset)
    return {
        "protocol": protocol,
        "images": images,
        "names": names,
        "detections": images * detections,
        "detectron2_seconds": spread(seconds[0]),
        "seconds": spread(seconds[1]),
        "times_faster": spread([a / b for a, b in zip(*seconds, strict=True)]),
        "difference": max(abs(results[0][key] - results[1][key]) for key in METRICS),
    }


def timed(evaluator: DatasetEvaluator, found: list[Instances]) -> tuple[dict[str, float], float]:
    """The numbers of boxes, and the processor time from the first detections to them."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.reset()
        for image_id, instances in enumerate(found):
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        results = evaluator.evaluate()["bbox"]
    return results, time.process_time() - start


def write_annotations(
    path: Path, rng: np.random.Generator, images: int, names: int, boxes: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A json that both protocols read; boxes (N, 4) XYXY px and classes (N,) of every image."""
    truth, annotations = [], []
    for image_id in range(images):
        edges = rng.choice([15, 60, 200], (boxes, 1)) * rng.uniform(0.7, 1.3, (boxes, 2))
        corners = rng.uniform(0, SIZE / 2, (boxes, 2))
        classes = rng.integers(names, size=boxes)
        truth.append((np.concatenate([corners, corners + edges], axis=1), classes))
        annotations += [
            {
                "image_id": image_id,
                "category_id": int(name) + 1,
                "bbox": [*corner.tolist(), *edge.tolist()],
                "area": float(edge.prod()),
                "iscrowd": 0,
            }
            for corner, edge, name in zip(corners, edges, classes, strict=True)
        ]
    content = {
        "images": [
            {"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"}
            | {"neg_category_ids": list(range(1, names + 1)), "not_exhaustive_category_ids": []}
            for i in range(images)
        ],
        "annotations": [{**one, "id": i} for i, one in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": str(i), "frequency": "f"} for i in range(1, names + 1)],
    }
    path.write_text(json.dumps(content))
    return truth


def detected(
    rng: np.random.Generator, boxes: np.ndarray, classes: np.ndarray, names: int, count: int
) -> Instances:
    """The true boxes with noise, and random ones."""
    guesses = rng.uniform(10, SIZE / 2, (count, 4))
    guesses[:, 2:] += guesses[:, :2]
    guessed = rng.integers(names, size=count)
    guesses[: len(boxes)] = boxes + rng.normal(0, 4, boxes.shape)
    guessed[: len(boxes)] = classes
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.tensor(guesses, dtype=torch.float32)),
        scores=torch.tensor(rng.random(count), dtype=torch.float32),
        pred_classes=torch.tensor(guessed),
    )
