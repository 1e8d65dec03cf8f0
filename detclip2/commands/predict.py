"""``detclip2 predict``: detect named things in images and videos; print and draw them."""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from detectron2.structures import Instances
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.commands.input_files import input_files
from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.commands.tables import console_for_tables
from detclip2.data.io.video import is_video
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.postprocess import MEANINGS
from detclip2.utils.errors import UserError
from detclip2.visualization.annotate import Tally, annotate_image, annotate_video

ROWS_SHOWN = 20

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
    names.add_argument("--names", help='names to detect, such as "red apple, fire engine"')
    names.add_argument(
        "--names-file", type=Path, metavar="FILE", help="a file of names, one per line, or a .csv"
    )
    names.add_argument(
        "--vocabulary",
        metavar="FILE|NAME",
        help=f"a saved vocabulary (.safetensors), or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for annotated files"
    )
    parser.add_argument(
        "--json", action="store_true", help="write the detections beside each of them"
    )
    add_model_arguments(parser)
    chosen = parser.add_argument_group(
        "settings of the detections", "the defaults are in the model's config"
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

    What was passed over in folders is listed at the end, and is no failure.
    """
    vocabulary = _vocabulary(args)  # before the model is loaded: errors are reported at once
    files, errors, passed_over = input_files(args.files, args.output)
    if not files:
        raise UserError("\n".join([*errors, *passed_over]))
    _make_folder(args.output)
    settings = {name: getattr(args, name) for name in MEANINGS}
    predictor = OpenVocabularyPredictor(
        *config_and_weights(args), args.device, trust_config=args.trust_config, **settings
    )
    predictor.set_vocabulary(vocabulary)
    console = console_for_tables()
    failed = 0
    for error in errors:
        failed += _report_failure(error)
    for file, annotated in zip(files, _outputs(files, args.output), strict=True):
        record = annotated.with_name(f"{annotated.name}.json") if args.json else None
        try:
            if is_video(file):
                tally = annotate_video(predictor, file, annotated, record)
                _report_video(console, file, tally)
            else:
                instances = annotate_image(predictor, file, annotated, record)
                _report_image(console, file, instances)
        except UserError as error:
            failed += _report_failure(error)
            continue
        kind = "video" if is_video(file) else "image"
        console.print(Text(f"annotated {kind}: {annotated}"), soft_wrap=True)
    for line in passed_over:
        print(line, file=sys.stderr)
    return 2 if failed else 0


def _report_failure(error: UserError | str) -> int:
    """Print why a file or folder failed; 1, their number."""
    print(f"detclip2: {error}", file=sys.stderr)
    return 1


def _vocabulary(args: argparse.Namespace) -> Vocabulary:
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


def _report_image(console: Console, image: Path, instances: Instances) -> None:
    """Print a table of an image: name, score, box; the best first."""
    # Text, not str: rich would read brackets in a name as markup.
    console.print(Text(f"{image}: {len(instances)} found", style="bold"), soft_wrap=True)
    if len(instances):
        table = Table("name", box=SIMPLE_HEAD)
        table.add_column("score", justify="right")
        table.add_column("box: x1, y1, x2, y2", justify="right")
        shown = instances[:ROWS_SHOWN]
        boxes = shown.pred_boxes.tensor.tolist()
        for label, score, box in zip(shown.labels, shown.scores.tolist(), boxes, strict=True):
            corners = ", ".join(f"{corner:.0f}" for corner in box)
            table.add_row(Text(label, overflow="fold"), f"{score:.3f}", corners)
        console.print(table)
    if len(instances) > ROWS_SHOWN:
        console.print(f"and {len(instances) - ROWS_SHOWN} more with lower scores")


def _report_video(console: Console, video: Path, tally: Tally) -> None:
    """Print a table of a video: name, number of frames, best score; the most frequent first."""
    console.print(Text(f"{video}: {tally.frames} frames", style="bold"), soft_wrap=True)
    if tally.labels:
        table = Table("name", box=SIMPLE_HEAD)
        table.add_column("frames", justify="right")
        table.add_column("best score", justify="right")
        by_frames = sorted(tally.labels.items(), key=lambda item: (*item[1], item[0]), reverse=True)
        for label, (frames, score) in by_frames[:ROWS_SHOWN]:
            table.add_row(Text(label, overflow="fold"), str(frames), f"{score:.3f}")
        console.print(table)
    if len(tally.labels) > ROWS_SHOWN:
        console.print(f"and {len(tally.labels) - ROWS_SHOWN} more names")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
