"""Compare rows from example boxes with rows from text on categories that no training has seen.

    python scripts/measure_examples.py --output output/examples.json

Examples are boxes of scenes of their own, at most one a scene, of the 104 unseen categories of
EmojiScenes. All 104 labels are asked for on other scenes. docs/vocabulary.md has the results.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import torch
from detectron2.evaluation import DatasetEvaluators
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.data.emojiscenes.sets import validation_set
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
from detclip2.inference.examples import ExampleProjector, regions_of
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.files import write_json
from scripts.fit_examples import SIZE, scenes_of

MODEL, SET = "emoji_nano", "emoji_unseen"
SHOTS = (1, 3, 10)
EVERYTHING = DetectionThresholds(0.001, 0.6, False, 1000)
REPORTED = 0.3
"""The score threshold of the model's config."""


def regions_by_label(predictor: OpenVocabularyPredictor, scenes: int) -> dict[str, list[Tensor]]:
    """Label -> the (D,) mean region of each of its examples, one a scene."""
    unseen = EmojiScenes(None, "train", count=scenes, size=SIZE, long_tail=0, contents=["unseen"])
    found: dict[str, list[Tensor]] = {label: [] for label in unseen.class_names}
    for image in track(scenes_of(unseen), "examples", scenes):
        for label, regions in dict(regions_of(predictor, image)).items():
            found[label].append(regions.mean(0))
    return found


def evaluate(
    predictor: OpenVocabularyPredictor,
    records: list[dict[str, Any]],
    ways: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Way -> its numbers: fixed AP, right names, and precision and recall as reported, percent.

    Args:
        predictor: with the model.
        records: of the registered `SET`.
        ways: way to make rows -> (C, D) rows.
    """
    evaluators = {
        way: DatasetEvaluators([LVISFixedAPEvaluator(SET), NameAccuracyEvaluator(SET)])
        for way in ways
    }
    states = {way: predictor.model.prepare_vocabulary(rows) for way, rows in ways.items()}
    reported = dict.fromkeys(ways, 0)
    for evaluator in evaluators.values():
        evaluator.reset()
    for record in track(records, "evaluating"):
        ready = predictor.ready(record["file_name"])
        for way, evaluator in evaluators.items():
            sample = {**vars(ready), "vocabulary": states[way]}
            outputs = predictor.model.inference([sample], thresholds=EVERYTHING)
            reported[way] += int((outputs[0].scores >= REPORTED).sum())
            evaluator.process([record], [{"instances": outputs[0]}])
    results = {}
    for way, evaluator in evaluators.items():
        found = evaluator.evaluate()
        results[way] = {
            "AP": found["bbox_fixed"]["AP"],
            "AP50": found["bbox_fixed"]["AP50"],
            "right_names": found["names"]["accuracy"],
            "reported_in_a_scene": reported[way] / len(records),
        }
    return results


def main(argv: list[str]) -> None:
    """Collect examples, make rows, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--scenes", type=int, default=300, help="that are measured")
    parser.add_argument("--examples", type=int, default=500, help="scenes with examples")
    args = parser.parse_args(argv)
    predictor = OpenVocabularyPredictor(MODEL, device="cpu")
    projector = ExampleProjector.of(predictor)
    regions = regions_by_label(predictor, args.examples)
    ways = {"text": predictor.encode(list(regions)).embeddings}
    for shots in SHOTS:
        few = [torch.stack(one[:shots]) for one in regions.values()]
        ways[f"mean of {shots}"] = torch.stack([F.normalize(one.mean(0), dim=0) for one in few])
        ways[f"projector, {shots}"] = torch.stack([projector(one) for one in few])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        records = validation_set(SET, folder, count=args.scenes, size=SIZE, contents=["unseen"])
        results = evaluate(predictor, records, ways)
    report = {
        "command": f"python scripts/measure_examples.py {' '.join(argv)}",
        "model": MODEL,
        "labels": len(regions),
        "scenes": args.scenes,
        "fewest_examples": min(map(len, regions.values())),
        "results": results,
    }
    write_json(args.output, report)
    Console().print_json(data=report)


if __name__ == "__main__":
    main(sys.argv[1:])
