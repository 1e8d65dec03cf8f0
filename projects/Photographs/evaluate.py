r"""Measure a model of photographs by the protocol of its card.

    python -m projects.Photographs.evaluate --data DIR --photos PHOTOS [--coco-open DIR] \
        [--model FOLDER] [--min-size 320] [--output FILE.json]

DIR is what ``projects.Photographs.tools.prepare_data`` has written. The measures are

- AP50 on the validation photographs, by COCO's protocol, names that are unknown in an image
  ignored: the mean over names with at least 20 boxes in training, that over all names, and that of
  persons; AP50 of the names of --held-back apart; the first one also by the size of things;
- the share of right detections by score;
- the same on the first 40 of them, which a test of the shipped model repeats;
- the same on the photographs of coco_open, both splits, which no training has seen;
- the share of images of one thing (``names_val.jsonl``) whose best detection has the right one of
  all names.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import numpy as np

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.data.io.coco_json import read_json
from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.evaluation.partly_labelled import (
    ap50_by_name,
    frequent_names,
    precision_by_score,
)
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from scripts.name_regions import without_article

CHECKED = 40
"""Validation photographs on which a test repeats the measures of the shipped model."""
MAIN = "AP50, names with 20 boxes"
BY_SIZE = {f"AP50, {size}": size for size in ("small", "medium", "large")}
"""The same by the size of things: a measure, and the key of `AREAS`."""


def first_images(content: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The first images of a COCO json with their boxes, and all categories."""
    images = content["images"][:number]
    ids = {image["id"] for image in images}
    boxes = [one for one in content["annotations"] if one["image_id"] in ids]
    return {**content, "images": images, "annotations": boxes}


def detections_of(
    predictor: OpenVocabularyPredictor, content: Mapping[str, Any], root: Path
) -> list[dict[str, Any]]:
    """Detections of all categories in all images of a COCO json, in COCO's format of results."""
    ids = [category["id"] for category in content["categories"]]
    predictor.set_vocabulary([category["name"] for category in content["categories"]])
    files = (str(root / image["file_name"]) for image in content["images"])
    results = []
    found = predictor(files, score_threshold=0.001, nms_threshold=0.6, max_detections=100)
    for image, instances in zip(content["images"], found, strict=True):
        for (x1, y1, x2, y2), score, label in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.scores.tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            one = {"image_id": image["id"], "category_id": ids[label], "bbox": box}
            results.append({**one, "score": score})
    return results


def summary(
    of_name: Mapping[str, float], frequent: Collection[str], held_back: Collection[str] = ()
) -> dict[str, Any]:
    """Means of AP50 over the names with boxes; NaN where there is none."""

    def mean(chosen: Collection[str]) -> float:
        values = [of_name[name] for name in chosen if name in of_name]
        defined = [value for value in values if not math.isnan(value)]
        return float(np.mean(defined)) if defined else math.nan

    means = {
        MAIN: mean([n for n in frequent if n not in held_back]),
        "AP50, all names": mean(of_name),
        "AP50, person": of_name.get("person", math.nan),
    }
    if held_back:
        means["AP50, names held back"] = mean(held_back)
    return means


def both_splits(folder: Path) -> dict[str, Any]:
    """The two splits of coco_open as one COCO json, with file names relative to the folder."""
    parts = {
        split: read_json(str(folder / f"annotations/instances_{split}.json"))
        for split in ("train2017", "val2017")
    }
    images = [
        {**image, "file_name": f"{split}/{image['file_name']}"}
        for split, part in parts.items()
        for image in part["images"]
    ]
    annotations = [one for part in parts.values() for one in part["annotations"]]
    return {
        "images": images,
        "annotations": annotations,
        "categories": parts["train2017"]["categories"],
    }


def name_accuracy(
    predictor: OpenVocabularyPredictor, lines: Sequence[Mapping[str, Any]], root: Path
) -> float:
    """The share, in percent, of images whose best detection has the right name."""
    right = 0
    files = (str(root / line["image"]) for line in lines)
    found = predictor(files, score_threshold=0.0, max_detections=1)
    for line, instances in zip(lines, found, strict=True):
        best = instances.labels[0] if len(instances) else ""
        right += best.casefold() == without_article(clean_phrase(line["caption"])).casefold()
    return 100 * right / len(lines) if lines else math.nan


def measure(predictor: OpenVocabularyPredictor, args: argparse.Namespace) -> dict[str, Any]:
    """All measures, by data set.

    Raises:
        UserError: a file is missing.
    """
    frequent = frequent_names(str(args.data / "boxes_train.json"))
    val, folder = read_json(str(args.data / "boxes_val.json")), args.photos / "boxes"
    sets = {
        "photos val": (val, folder),
        f"photos val, first {CHECKED}": (first_images(val, CHECKED), folder),
    }
    if args.coco_open:
        sets["coco_open"] = (both_splits(args.coco_open), args.coco_open)
    results: dict[str, Any] = {}
    for name, (content, root) in sets.items():
        detections = detections_of(predictor, content, root)
        of_name = ap50_by_name(content, detections)
        by_size = {
            key: summary(ap50_by_name(content, detections, size), frequent)[MAIN]
            for key, size in BY_SIZE.items()
        }
        results[name] = {
            "images": len(content["images"]),
            **summary(of_name, frequent, args.held_back),
            **by_size,
            "by name": {key: ap for key, ap in of_name.items() if not math.isnan(ap)},
            "by score": precision_by_score(content, detections),
        }
    lines = [json.loads(x) for x in (args.data / "names_val.jsonl").read_text().splitlines()]
    concepts = ConceptDictionary.load(args.data / "concepts.jsonl")
    predictor.set_vocabulary([concept.name for concept in concepts])
    results["images of one thing"] = {
        "images": len(lines),
        "names": len(concepts),
        "right first, %": name_accuracy(predictor, lines, args.photos),
    }
    return results


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--coco-open", type=Path, metavar="DIR")
    parser.add_argument("--held-back", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--min-size", type=int, help="short side, px; default: the model's")
    parser.add_argument("--output", type=Path, metavar="JSON")
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    try:
        config, weights = config_and_weights(args)
        predictor = OpenVocabularyPredictor(
            config, weights, args.device, trust_config=args.trust_config
        )
        if args.min_size:
            predictor.settings = dataclasses.replace(
                predictor.settings, min_size=args.min_size, max_size=2 * args.min_size
            )
        results = measure(predictor, args)
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for name, measured in results.items():
        print(name)
        for key, value in measured.items():
            if key not in ("by name", "by score"):
                print(f"  {key}: {value:.1f}" if isinstance(value, float) else f"  {key}: {value}")
    if args.output:
        text = json.dumps(results, indent=2) + "\n"
        write_whole(args.output, lambda file: file.write(text.encode()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
