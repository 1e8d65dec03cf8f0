"""Measure calibrated scores on held-out EmojiScenes, and whether scores move with the names.

    python scripts/measure_calibration.py --output output/calibration

Every other scene calibrates, the others are measured: ``calibration.json`` has the expected
calibration error before and after, and precision and recall at the thresholds, of base names, which
had boxes in training, and of novel ones, which had none. Then two models are asked for a few names,
and for all names of the world, and their scores for the few are compared: the one that ships, and a
GLIP of its nano size with random weights, which shows that its scores move, and nothing more.
docs/calibration.md has the results.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import torch
from detectron2.config import instantiate
from rich.console import Console

from detclip2 import get_config
from detclip2.commands.judged_detections import FLOOR, content_of, labels_of_names, outcomes_of
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.data.emojiscenes.validation import render_validation
from detclip2.finetuning.coco_check import read_own_data
from detclip2.inference.calibration import Outcomes, Reliability, fit
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.files import write_json
from detclip2.visualization.reliability import draw_reliability

MODEL, SIZE = "emoji_nano", 160
PRECISION = 0.9
FEW = 10
COMPARED = 30  # scenes
CLEAR = 0.1  # scores below say nothing


def chosen(outcomes: Outcomes, labels: set[int]) -> Outcomes:
    """Those of some labels."""
    here, boxes = (np.isin(one, list(labels)) for one in (outcomes.labels, outcomes.box_labels))
    return Outcomes(
        *(one[here] for one in (outcomes.images, outcomes.labels, outcomes.scores, outcomes.right)),
        *(one[boxes] for one in (outcomes.box_images, outcomes.box_labels)),
    )


def measured(
    teaching: Outcomes,
    new: Outcomes,
    groups: dict[str, set[int]],
    num_labels: int,
    least: float,
) -> dict[str, Any]:
    """Errors, of detections with scores of the model from ``least`` on, precision and recall."""
    calibration, thresholds = fit(teaching, num_labels, PRECISION)
    rows = {}
    for name, labels in groups.items():
        of_group = chosen(new, labels)
        calibrated = calibration(of_group.scores, of_group.labels)
        kept = calibrated >= np.array(thresholds)[of_group.labels]
        right = int(of_group.right[kept].sum())
        shown = of_group.scores >= least
        rows[name] = {
            "detections": int(shown.sum()),
            "boxes": len(of_group.box_labels),
            "own_maps": sum(calibration.map_of_label[label] > 0 for label in labels),
            "labels": len(labels),
            "error_before": Reliability.of(of_group.scores[shown], of_group.right[shown]).error,
            "error_after": Reliability.of(calibrated[shown], of_group.right[shown]).error,
            "kept": int(kept.sum()),
            "precision": right / kept.sum() if kept.any() else float("nan"),
            "recall": right / len(of_group.box_labels),
        }
    return rows


def random_glip() -> Any:
    """GLIP's nano size with random weights whose scores are neither all low nor all equal."""
    torch.manual_seed(0)
    model = instantiate(get_config("models/glip.py").nano)
    with torch.no_grad():
        model.token_head.bias.zero_()  # at first it says that nothing is there
        model.token_head.log_scale.fill_(-math.log(10))
    return model.eval()


def movement(
    predictor: OpenVocabularyPredictor, images: list[Path], few: list[str], names: list[str]
) -> dict[str, Any]:
    """How the best score of a name in an image changes when other names are asked for too."""
    best: list[dict[tuple[Path, str], float]] = []
    for asked in (few, names):
        scores: dict[tuple[Path, str], float] = {}
        for image in images:
            found = predictor(image, vocabulary=asked, score_threshold=0.0, max_detections=1000)
            for label, score in zip(found.labels, found.scores.tolist(), strict=True):
                scores[image, label] = max(score, scores.get((image, label), 0.0))
        best.append(scores)
    clear = [key for key, score in best[0].items() if score >= CLEAR and key in best[1]]
    alone, together = (np.array([scores[key] for key in clear]) for scores in best)
    change = np.abs(together - alone)
    return {
        "pairs": len(clear),
        "mean_score": float(alone.mean()) if len(clear) else float("nan"),
        "mean_change": float(change.mean()) if len(clear) else float("nan"),
        "largest_change": float(change.max()) if len(clear) else float("nan"),
    }


def main(argv: list[str]) -> None:
    """Draw, detect, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--world", type=int, default=50, help="base and novel categories")
    parser.add_argument("--scenes", type=int, default=1200)
    args = parser.parse_args(argv)
    console = Console()

    scenes = EmojiScenes(args.world, "val", count=args.scenes, size=SIZE)
    annotations = render_validation(scenes, args.output)
    data = read_own_data(annotations, annotations.parent)
    predictor = OpenVocabularyPredictor(MODEL, device="cpu")
    vocabulary = Vocabulary.from_names(scenes.class_names)
    predictor.set_vocabulary(vocabulary)
    label_of = labels_of_names(data, data.names, vocabulary)
    content = content_of(data.to_coco(data.names), label_of)
    outcomes = outcomes_of(predictor, content, data.image_root, console)
    groups = {
        split: {i for i, one in enumerate(scenes.vocabulary) if split in ("all", one.split)}
        for split in ("all", "base", "novel")
    }
    teaching, new = outcomes.of_half(0), outcomes.of_half(1)
    of_base = chosen(teaching, groups["base"])
    calibration, _ = fit(teaching, len(vocabulary))
    least = max(FLOOR, predictor.effective_thresholds.score_threshold or 0)
    panels = {}
    for split in ("base", "novel"):
        part = chosen(new, groups[split])
        shown, right = part.scores >= least, part.right[part.scores >= least]
        calibrated = calibration(part.scores, part.labels)
        panels[f"{split} names, before"] = Reliability.of(part.scores[shown], right)
        panels[f"{split} names, after"] = Reliability.of(calibrated[shown], right)
    draw_reliability(panels, args.output / "reliability.png")

    images = [data.image_root / image["file_name"] for image in data.images[:COMPARED]]
    few, names = scenes.class_names[:FEW], scenes.class_names
    glip = OpenVocabularyPredictor.from_model(random_glip(), predictor.settings)
    moved = {
        MODEL: movement(predictor, images, few, names),
        "GLIP": movement(glip, images, few, names),
    }
    report = {
        "command": f"python scripts/measure_calibration.py {' '.join(argv)}",
        "model": MODEL,
        "scenes": {"calibration": args.scenes // 2, "held_out": args.scenes // 2, "px": SIZE},
        "precision_asked": PRECISION,
        "model_scores_from": least,
        "calibrated_on_all_names": measured(teaching, new, groups, len(vocabulary), least),
        "calibrated_on_base_names": measured(of_base, new, groups, len(vocabulary), least),
        "names": {"few": FEW, "all": len(names), "scenes": COMPARED, "clear": CLEAR, **moved},
    }
    write_json(args.output / "calibration.json", report)
    console.print_json(data=report)


if __name__ == "__main__":
    main(sys.argv[1:])
