"""An exported graph by precision: AP on EmojiScenes, processor time, size of the file."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.evaluation.coco_api import average_precision
from detclip2.export import Runner, export_onnx, write_onnx
from detclip2.export.precision import Precision
from detclip2.inference.predictor import OpenVocabularyPredictor

from .timing import Setting, spread

MODEL = "emoji_nano"  # of those that ship, the one of this world
SIZE = 160  # px, of that world
CALIBRATION = 100  # scenes of the training split
SCORE_THRESHOLD = 0.001  # AP needs detections of all scores

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(N, 4) boxes XYXY px, (N,) scores, (N,) classes."""


def measure(setting: Setting, scenes: int) -> list[dict[str, Any]]:
    """A row for the predictor and one for each precision, all of `MODEL`.

    They detect all names of the world in the same validation scenes, scene by scene in turns.

    Args:
        setting: of the run.
        scenes: how many.
    """
    predictor = OpenVocabularyPredictor(MODEL, device="cpu", score_threshold=SCORE_THRESHOLD)
    validation = EmojiScenes(None, "val", count=scenes, size=SIZE, seed=setting.seed)
    predictor.set_vocabulary(validation.class_names)
    with tempfile.TemporaryDirectory() as folder:
        graphs = exported(predictor, Path(folder), setting)
        detectors: dict[str, Callable[[np.ndarray], Found]] = {"PyTorch": _of_predictor(predictor)}
        for precision, path in graphs.items():
            detectors[precision] = _of_runner(Runner(path, threads=torch.get_num_threads()))
        sizes = {precision: path.stat().st_size for precision, path in graphs.items()}
    found, seconds = run(detectors, validation)
    truth = truth_of(validation)
    classes = range(len(validation.class_names))
    rows = []
    for name, results in found.items():
        metrics, _ = average_precision(classes, truth, entries_of(results))
        ratios = [own / fp32 for own, fp32 in zip(seconds[name], seconds["fp32"], strict=True)]
        row = {"what": name, "scenes": scenes, "names": len(classes)}
        row |= {key: round(metrics[key], 2) for key in ("AP", "AP50")}
        row |= {"cpu_ms": spread([1000 * s for s in seconds[name]]), "of_fp32": spread(ratios)}
        rows.append({**row, "MB": round(sizes.get(name, 0) / 1e6, 1)})
    return rows


def exported(predictor: OpenVocabularyPredictor, folder: Path, setting: Setting) -> dict[str, Path]:
    """The graph of each precision, for inputs of `SIZE`, with the vocabulary folded in."""
    training = EmojiScenes(None, "train", count=CALIBRATION, size=SIZE, seed=setting.seed)
    paths = {}
    for precision in get_args(Precision):
        images = [record["image"] for record in training] if precision == "int8" else []
        size = (SIZE, SIZE)
        paths[precision] = folder / f"{precision}.onnx"
        graph = export_onnx(predictor, predictor.vocabulary, size, precision, images)
        write_onnx(graph, paths[precision])
    return paths


def run(
    detectors: dict[str, Callable[[np.ndarray], Found]], scenes: EmojiScenes
) -> tuple[dict[str, list[Found]], dict[str, list[float]]]:
    """Detections of each detector in each scene, and its processor time, seconds.

    Processor time of all threads: on a busy machine the time of the clock measures the others.
    """
    found: dict[str, list[Found]] = {name: [] for name in detectors}
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    for detect in detectors.values():
        detect(scenes[0]["image"])  # memory is allocated
    for record in scenes:
        for name, detect in detectors.items():
            start = time.process_time()
            found[name].append(detect(record["image"]))
            seconds[name].append(time.process_time() - start)
    return found, seconds


def _of_predictor(predictor: OpenVocabularyPredictor) -> Callable[[np.ndarray], Found]:
    def detect(image: np.ndarray) -> Found:
        instances = predictor(image)
        classes = instances.pred_classes.numpy()
        return instances.pred_boxes.tensor.numpy(), instances.scores.numpy(), classes

    return detect


def _of_runner(runner: Runner) -> Callable[[np.ndarray], Found]:
    def detect(image: np.ndarray) -> Found:
        detections = runner(image)
        return detections.boxes, detections.scores, detections.classes

    return detect


def truth_of(scenes: EmojiScenes) -> list[dict[str, Any]]:
    """The true boxes in COCO's form."""
    return [
        {"image_id": i, "category_id": box["category_id"], "bbox": _xywh(np.array(box["bbox"]))}
        for i, record in enumerate(scenes.records_without_images())
        for box in record["annotations"]
    ]


def entries_of(results: list[Found]) -> list[dict[str, Any]]:
    """The detections of each scene in COCO's form."""
    return [
        {"image_id": i, "category_id": int(c), "bbox": _xywh(box), "score": float(score)}
        for i, found in enumerate(results)
        for box, score, c in zip(*found, strict=True)
    ]


def _xywh(box: np.ndarray) -> list[float]:
    """XYXY, as both scenes and detections have it, to XYWH."""
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
