"""``detclip2 odinw``: AP on the data sets of ODinW on disk, and their mean."""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from detclip2.commands.model_arguments import add_model_arguments, load_predictor
from detclip2.data.datasets.odinw import BENCHMARKS, SPLITS, odinw_sets
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.evaluation.coco_api import METRICS
from detclip2.evaluation.odinw import (
    MAX_DETECTIONS,
    OdinwSettings,
    evaluate_odinw,
    found_sets,
    mean_of,
    protocol_of,
    read_split,
    write_summary,
)
from detclip2.inference.vocabulary import Vocabulary

EXAMPLE = "detclip2 odinw ODinW --output results --benchmark 35"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("root", type=Path, help="folder of the data sets, as GLIP's download")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for results as json"
    )
    parser.add_argument(
        "--benchmark",
        type=int,
        choices=BENCHMARKS,
        default=13,
        help="ODinW-13 or -35 (default: 13)",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="valid",
        help="GLIP evaluates on mini_val, which is valid where there is none, without training, "
        "on test after it; mmdetection on valid (default: valid)",
    )
    parser.add_argument(
        "--sets", nargs="+", default=[], metavar="NAME", help="data sets to evaluate (default: all)"
    )
    parser.add_argument(
        "--prompts",
        choices=("names", "written"),
        default="names",
        help="names of classes, or GLIP's hand-written prompts if there are any (default: names)",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.05,
        metavar="X",
        help="drop lower scores (default: 0.05)",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate on every data set on disk and print a table."""
    sets = odinw_sets(args.benchmark, args.sets)
    settings = OdinwSettings(args.root, args.benchmark, args.split, args.prompts == "written")
    found, not_found = found_sets(sets, settings)
    for one in found:
        read_split(one, settings)  # report errors before hours of detection
    predictor = load_predictor(args)
    console = Console()

    def detect(paths: list[Path], prompts: Sequence[str]) -> Iterable[Instances]:
        is_caption = isinstance(prompts, CaptionPhrases)
        predictor.set_vocabulary(prompts if is_caption else Vocabulary.from_names(prompts))
        shown: Iterable[Path] = paths
        if console.is_terminal:
            shown = track(paths, console=console, transient=True)
        return predictor(
            iter(shown), score_threshold=args.score_threshold, max_detections=MAX_DETECTIONS
        )

    results = {}
    for one in found:
        results[one.name] = evaluate_odinw(one, settings, detect, args.output)
        of_set = results[one.name]
        line = f"{one.name}: {of_set['annotations']}; prompts: {' | '.join(of_set['prompts'])}"
        console.print(line, soft_wrap=True, markup=False)
    absent = {
        "not_found": [one.name for one in not_found],
        "not_asked_for": [one.name for one in odinw_sets(args.benchmark) if one not in sets],
    }
    asked = dict.fromkeys(prompt for of_set in results.values() for prompt in of_set["prompts"])
    encoder = predictor.vocabulary.encoder if predictor.vocabulary else ""
    vocabulary = replace(Vocabulary.from_names(asked), encoder=encoder)
    protocol = protocol_of(results, settings, args.score_threshold, vocabulary.description)
    write_summary(results, absent, settings, protocol, args.output)
    console.print(_table(results))
    console.print(
        f"mean over {len(results)} of the {args.benchmark} data sets of {protocol.dataset}"
    )
    for why, names in absent.items():
        if names:
            console.print(f"{why.replace('_', ' ')}: {', '.join(names)}", soft_wrap=True)
    console.print(str(protocol), soft_wrap=True, markup=False)
    return 0


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("data set", box=SIMPLE_HEAD)
    for column in ("images", *METRICS):
        table.add_column(column, justify="right")
    for name, of_set in results.items():
        table.add_row(name, str(of_set["images"]), *(_shown(of_set[m]) for m in METRICS))
    table.add_section()
    means = mean_of(results)
    table.add_row(f"mean of {len(results)}", "", *(_shown(means[metric]) for metric in METRICS))
    return table


def _shown(percent: float) -> str:
    return "-" if math.isnan(percent) else f"{percent:.1f}"
