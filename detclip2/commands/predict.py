"""``detclip2 predict``: detect named things in images and videos; print and draw them."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from detclip2.commands.input_files import input_files
from detclip2.commands.model_arguments import (
    add_model_arguments,
    check_model_arguments,
    load_predictor,
)
from detclip2.data.io.video import is_video
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.modeling.thresholds import MEANINGS
from detclip2.utils.compiler_on_demand import import_compiler_on_demand
from detclip2.utils.errors import UserError

if TYPE_CHECKING:  # all below needs torch, and is imported once the arguments are known to be right
    from detclip2.commands.reports import Report
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.results_file import ResultsFile
    from detclip2.inference.vocabulary import Vocabulary

RESULTS = (".json", ".csv")

logger = logging.getLogger(__name__)

EXAMPLE = 'detclip2 predict street.jpg --names "bus, traffic light" --output annotated'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="an image, a video, or a folder of them",
    )
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument(
        "--names", help='names to detect, separated by commas: "red apple, fire engine"'
    )
    names.add_argument(
        "--names-file",
        type=Path,
        metavar="FILE",
        help="a file of names: one per line, a .csv, or the categories of a COCO .json",
    )
    names.add_argument(
        "--vocabulary",
        metavar="FILE|NAME",
        help=f"a saved vocabulary (.safetensors), or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    names.add_argument(
        "--caption",
        help='a sentence, such as "a man next to two small dogs": its noun phrases are detected; '
        "GLIP reads it whole",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for annotated files"
    )
    parser.add_argument(
        "--json", action="store_true", help="write the detections beside each of them"
    )
    parser.add_argument(
        "--results",
        type=_results,
        metavar="FILE",
        help="write the detections of all files to this one: .json (COCO) or .csv",
    )
    add_model_arguments(parser)
    chosen = parser.add_argument_group(
        "settings of the detections",
        "the defaults are in the model's config; the output names the score threshold",
    )
    for name, kind in (("score_threshold", _fraction), ("nms_threshold", _fraction)):
        chosen.add_argument(_option(name), type=kind, metavar="X", help=MEANINGS[name])
    chosen.add_argument(
        "--class-agnostic-nms",
        action=argparse.BooleanOptionalAction,
        help=MEANINGS["class_agnostic_nms"],
    )
    chosen.add_argument(
        "--max-detections", type=_count, metavar="N", help=MEANINGS["max_detections"]
    )


def run(args: argparse.Namespace) -> int:
    """Detect in every file; return 2 if one of them failed.

    Of up to `reports.MOST_TABLES` files each has a table, more have a summary. What was passed over
    in folders is listed at the end, and is no failure.
    """
    named, errors, passed_over = input_files(args.files, args.output)
    files = [file for file in named if os.path.lexists(file)]
    errors += [_missing(file) for file in named if file not in files]
    if not files:
        raise UserError("\n".join([*errors, *passed_over]))
    check_model_arguments(args)
    _make_folder(args.output)

    import_compiler_on_demand()
    from detclip2.commands.reports import Report
    from detclip2.inference.results_file import ResultsFile

    vocabulary = _vocabulary(args)  # before the model is loaded: errors are reported at once
    predictor = load_predictor(args, **{name: getattr(args, name) for name in MEANINGS})
    predictor.set_vocabulary(vocabulary)
    report = Report(len(files), predictor)
    labels = vocabulary.phrases if isinstance(vocabulary, CaptionPhrases) else vocabulary.labels
    results = ResultsFile(args.results, labels) if args.results else None
    for error in errors:
        _report_failure(error)
    failed = len(errors)
    for file, annotated in _shown(zip(files, _outputs(files, args.output), strict=True), report):
        record = annotated.with_name(f"{annotated.name}.json") if args.json else None
        try:
            _annotate(predictor, file, annotated, record, report, results)
        except UserError as error:
            failed += 1
            _report_failure(error)
    report.end(args.output)
    if results is not None:
        results.write()
        print(f"results: {args.results}")
    for line in passed_over:
        print(line, file=sys.stderr)
    return 2 if failed else 0


def _annotate(
    predictor: "OpenVocabularyPredictor",
    file: Path,
    annotated: Path,
    record: Path | None,
    report: "Report",
    results: "ResultsFile | None",
) -> None:
    from detclip2.visualization.annotate import annotate_image, annotate_video

    if is_video(file):
        report.video(file, annotate_video(predictor, file, annotated, record, results), annotated)
        return
    instances = annotate_image(predictor, file, annotated, record)
    report.image(file, instances, annotated)
    if results is not None:
        results.add(file, instances)


def _shown(files: Iterable[tuple[Path, Path]], report: "Report") -> Iterable[tuple[Path, Path]]:
    """The files, with a progress bar on a terminal if they have no tables."""
    console = Console(stderr=True)
    if report.has_tables or not console.is_terminal:
        return files
    return track(files, "detecting", report.files, console=console, transient=True)


def _missing(path: Path) -> str:
    if path.parts[:1] in (("http:",), ("https:",)):  # a path has lost one of the slashes
        return f"{path}: addresses are not read: download the file, and name it here"
    return f"{path}: this file does not exist"


def _report_failure(error: UserError | str) -> None:
    """Print why a file or folder failed."""
    print(f"detclip2: {error}", file=sys.stderr)


def _vocabulary(args: argparse.Namespace) -> "Vocabulary | CaptionPhrases":
    from detclip2.inference.vocabulary import Vocabulary

    if args.caption is not None:
        return CaptionPhrases.find(args.caption)
    if args.vocabulary in BUILTIN_NAMES:
        return Vocabulary.builtin(args.vocabulary)
    if args.vocabulary is not None:
        return Vocabulary.load(args.vocabulary)
    if args.names_file is not None:
        return Vocabulary.from_file(args.names_file)
    if args.names in BUILTIN_NAMES:
        logger.warning(
            "--names %s looks for a thing of this name; its built-in list is --vocabulary %s",
            *(args.names, args.names),
        )
    return Vocabulary.from_text(args.names)


def _outputs(files: list[Path], folder: Path) -> Iterator[Path]:
    """Paths of annotated files, different from each other and from the input files.

    JPEG stays JPEG; other images become PNG, videos MP4.
    """
    taken = {file.absolute() for file in files}
    for file in files:
        suffix = ".jpg" if file.suffix.lower() in (".jpg", ".jpeg") else ".png"
        suffix = ".mp4" if is_video(file) else suffix
        number = 1
        while True:
            ending = f"-{number}" if number > 1 else ""
            path = folder / f"{file.stem}.detections{ending}{suffix}"
            if path.absolute() not in taken:
                break
            number += 1
        taken.add(path.absolute())
        yield path


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: this folder cannot be made: {error.strerror}") from None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _results(text: str) -> Path:
    if Path(text).suffix not in RESULTS:
        raise argparse.ArgumentTypeError(f"{text} does not end in {' or '.join(RESULTS)}")
    return Path(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
