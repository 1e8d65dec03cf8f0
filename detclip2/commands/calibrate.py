"""``detclip2 calibrate``: from scores to the share of right detections, kept in a vocabulary."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.commands.judged_detections import FLOOR, content_of, labels_of_names, outcomes_of
from detclip2.commands.model_arguments import add_model_arguments, load_predictor
from detclip2.commands.numbers import share
from detclip2.commands.tables import console_for_tables
from detclip2.evaluation.protocol import annotations_of
from detclip2.finetuning.parts import names_of, read_parts
from detclip2.finetuning.report import ROWS_SHOWN, report_data
from detclip2.inference.calibration import (
    MIN_BOXES,
    Calibration,
    Outcomes,
    Reliability,
    cross_fitted,
    fit,
)
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.visualization.reliability import draw_reliability

EXAMPLE = "detclip2 calibrate --vocabulary names.safetensors --val val.json --images images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--vocabulary", type=Path, required=True, metavar="FILE", help="a saved "
                        "vocabulary (.safetensors)")  # fmt: skip
    parser.add_argument("--val", type=Path, nargs="+", required=True, metavar="JSON", help="boxes "
                        "in COCO's format, that no training has seen")  # fmt: skip
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR",
                        help="folder that file_name is relative to: one, or one each")  # fmt: skip
    parser.add_argument("--precision", type=share, metavar="P", help="keep the detections of a "
                        "label of which at least this share is right, such as 0.9 (default: the "
                        "threshold of the best F1)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="the calibrated vocabulary "
                        "(default: --vocabulary itself)")  # fmt: skip
    parser.add_argument("--exhaustive", action="store_true", help="every name of any file is "
                        "absent where it has no box")  # fmt: skip
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, match, fit, and write the vocabulary with a figure and the numbers beside it."""
    output = args.output or args.vocabulary
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: a vocabulary's file name ends in .safetensors")
    vocabulary = replace(Vocabulary.load(args.vocabulary), calibration=None, thresholds=None)
    console = console_for_tables()
    own, merges = read_parts({"val": args.val}, args.images, args.exhaustive)
    names, data = names_of(own), own["val"]
    report_data(console, own, names, merges, args.exhaustive)
    label_of = labels_of_names(data, names, vocabulary)
    _report_overlap(console, names, label_of, vocabulary)
    content = content_of(data.to_coco(names), label_of)
    predictor = load_predictor(args)
    if predictor.model.reads_names:
        raise UserError(
            "this model reads all names of a vocabulary together, so that its scores depend on the "
            "other names: no calibration would hold"
        )
    predictor.set_vocabulary(vocabulary)
    outcomes = outcomes_of(predictor, content, data.image_root, console)
    _check(outcomes, args.val)
    calibration, thresholds = fit(outcomes, len(vocabulary), args.precision)
    held_out = cross_fitted(outcomes, len(vocabulary), args.precision)
    replace(vocabulary, calibration=calibration, thresholds=thresholds).save(output)

    least = max(FLOOR, predictor.effective_thresholds.score_threshold or 0)
    shown = outcomes.scores >= least
    before, after = (
        Reliability.of(scores[shown], outcomes.right[shown])
        for scores in (outcomes.scores, held_out[0])
    )
    rows = [
        _row(vocabulary.labels[label], label, outcomes, held_out[1])
        | {"map": "own" if calibration.map_of_label[label] else "pooled"}
        | {"threshold": thresholds[label]}
        for label in sorted(label_of.values())
    ]
    total = _row("all", None, outcomes, held_out[1])
    report = {
        "annotations": [annotations_of(path) for path in args.val],
        "vocabulary": vocabulary.description,
        "precision_asked": args.precision,
        "expected_calibration_error": {
            "model_scores_from": least,
            "detections": int(shown.sum()),
            "before": before.error,
            "after": after.error,
        },
        "all": total,
        "labels": rows,
    }
    write_json(output.with_suffix(".calibration.json"), report)
    figure = output.with_suffix(".calibration.png")
    draw_reliability({"before": before, "after, held out": after}, figure)
    _print(console, rows, total)
    if never := [
        label for label in label_of.values() if _reaches_nothing(label, calibration, thresholds)
    ]:
        line = (
            f"{len(never)} labels have no score from which on a share of {args.precision} is "
            f"right, and will not be detected, such as {vocabulary.labels[never[0]]}"
        )
        console.print(Text(line), soft_wrap=True)
    console.print(
        f"expected calibration error: {before.error:.3f} before, {after.error:.3f} after (of "
        f"{shown.sum()} detections with scores from {least:g}; each half of the "
        "images by the other half)"
    )
    console.print(Text(f"the reliability of scores: {figure}"), soft_wrap=True)
    console.print(Text(f"the calibrated vocabulary: {output}"), soft_wrap=True)
    return 0


def _report_overlap(
    console: Console, names: Sequence[str], label_of: Mapping[str, int], vocabulary: Vocabulary
) -> None:
    """Print how many names and labels are not calibrated.

    Raises:
        UserError: the annotations have no label of the vocabulary.
    """
    if not label_of:
        raise UserError(
            f"no name of --val ({', '.join(names[:3])}, ...) is a label of the vocabulary "
            f"({', '.join(vocabulary.labels[:3])}, ...): calibrate it with boxes of its own labels"
        )
    if others := [name for name in names if name not in label_of]:
        line = f"{len(others)} names of --val are no labels, and skipped, such as {others[0]}"
        console.print(Text(line), soft_wrap=True)
    if without := set(range(len(vocabulary))) - set(label_of.values()):
        such = vocabulary.labels[min(without)]
        line = f"{len(without)} labels are not in --val, and get the pooled map, such as {such}"
        console.print(Text(line), soft_wrap=True)


def _reaches_nothing(label: int, calibration: Calibration, thresholds: Sequence[float]) -> bool:
    return thresholds[label] > calibration.maps[calibration.map_of_label[label]].max()


def _check(outcomes: Outcomes, files: Sequence[Path]) -> None:
    """Refuse what no calibration can be fitted to.

    Raises:
        UserError: there are too few boxes, or detections.
    """
    for what, number in (("boxes of labels", outcomes.box_labels), ("detections", outcomes.labels)):
        if len(number) < MIN_BOXES:
            raise UserError(
                f"{files[0]}: there are {len(number)} {what} to calibrate by; at least {MIN_BOXES} "
                "are needed"
            )


def _row(name: str, label: int | None, outcomes: Outcomes, kept: np.ndarray) -> dict[str, Any]:
    """Counts of a label, None for all, and precision and recall of what was kept, held out."""
    here = kept & (True if label is None else outcomes.labels == label)
    boxes = (
        outcomes.box_labels if label is None else outcomes.box_labels[outcomes.box_labels == label]
    )
    right = int(outcomes.right[here].sum())
    return {
        "label": name,
        "boxes": len(boxes),
        "kept": int(here.sum()),
        "precision": right / here.sum() if here.any() else float("nan"),
        "recall": right / len(boxes) if len(boxes) else float("nan"),
    }


def _print(console: Console, rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
    """The table of labels, the most boxes first."""
    table = Table("label", box=SIMPLE_HEAD)
    for column in ("boxes", "map", "threshold", "precision", "recall"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: -row["boxes"])[:ROWS_SHOWN]:
        numbers = (_number(row[key]) for key in ("threshold", "precision", "recall"))
        table.add_row(Text(row["label"], overflow="fold"), str(row["boxes"]), row["map"], *numbers)
    table.add_section()
    table.add_row(f"all {len(rows)}", str(total["boxes"]), "", "",
                  *(_number(total[key]) for key in ("precision", "recall")))  # fmt: skip
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"({len(rows) - ROWS_SHOWN} labels with fewer boxes are in the json)")


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
