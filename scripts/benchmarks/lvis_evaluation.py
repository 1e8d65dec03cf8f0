"""Peak memory and time of the LVIS evaluator, on simulated images, boxes and detections.

    python scripts/benchmarks/lvis_evaluation.py [--images 20000] [--detections 300]

The default has the size of LVIS v1 val: 20,000 images, 1203 categories, 12 boxes with polygons an
image, and 300 detections an image. Memory is that of the whole process, interpreter and torch
included; time is of the processor.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from detclip2.evaluation.lvis import LVISFixedAPEvaluator, table

NAME = "simulated_lvis"
SIZE = 640  # px of an image's edges
POLYGON = 50  # points; LVIS v1 val takes about 190 MB


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--detections", type=int, default=300, help="detections an image")
    parser.add_argument("--categories", type=int, default=1203)
    parser.add_argument("--boxes", type=int, default=12, help="annotated boxes an image")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder, "simulated.json")
        truth = write_annotations(json_file, args, rng)
        report(f"{json_file.stat().st_size / 1e6:.0f} MB of annotations written")
        MetadataCatalog.get(NAME).set(json_file=str(json_file))
        evaluator = LVISFixedAPEvaluator(NAME, output_dir=f"{folder}/results")
        report("annotations loaded")
        for image_id, (boxes, classes) in enumerate(truth):
            instances = simulated_detections(boxes, classes, args, rng)
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        report(f"{args.images * args.detections:,} detections taken in")
        results = evaluator.evaluate()
        report("evaluated, results written")
        assert results is not None
        print(table(results))


def write_annotations(
    path: Path, args: argparse.Namespace, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A json of LVIS; returns boxes (N, 4) XYWH px and classes (N,) of every image."""
    truth = []
    with path.open("w") as file:
        file.write('{"annotations": [')
        for image_id in range(args.images):
            boxes = rng.uniform(10, SIZE / 2, (args.boxes, 4)).round(2)
            classes = rng.integers(args.categories, size=args.boxes)
            truth.append((boxes, classes))
            for i, (box, category) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
                annotation = {
                    "id": image_id * args.boxes + i + 1,
                    "image_id": image_id,
                    "category_id": category + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "segmentation": [rng.uniform(0, SIZE, 2 * POLYGON).round(2).tolist()],
                }
                file.write((",\n" if image_id or i else "") + json.dumps(annotation))
        images = [
            {
                "id": image_id,
                "neg_category_ids": (rng.integers(args.categories, size=8) + 1).tolist(),
                "not_exhaustive_category_ids": [],
            }
            for image_id in range(args.images)
        ]
        categories = [{"id": i + 1, "frequency": "rcf"[i % 3]} for i in range(args.categories)]
        file.write(f'], "images": {json.dumps(images)}, "categories": {json.dumps(categories)}}}')
    return truth


def simulated_detections(
    boxes: np.ndarray, classes: np.ndarray, args: argparse.Namespace, rng: np.random.Generator
) -> Instances:
    """Detections of an image: the true boxes with noise, and random ones."""
    guesses = rng.uniform(10, SIZE / 2, (args.detections, 4))
    # A long tail: at the default size some 75 classes have more than the 10,000 that are kept.
    names = (args.categories * rng.random(args.detections) ** 2).astype(np.int64)
    found = min(len(boxes), args.detections)
    guesses[:found] = np.abs(boxes[:found] + rng.normal(0, 5, (found, 4)))
    names[:found] = classes[:found]
    guesses[:, 2:] += guesses[:, :2]
    return Instances(
        (SIZE, SIZE),
        pred_boxes=Boxes(torch.tensor(guesses, dtype=torch.float32)),
        scores=torch.tensor(rng.random(args.detections), dtype=torch.float32),
        pred_classes=torch.tensor(names),
    )


def report(what: str) -> None:
    """Print a step, the processor time and the peak memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    print(f"{time.process_time():7.0f} s  {peak:5.2f} GiB at most  {what}", flush=True)


if __name__ == "__main__":
    main()
