"""``detclip2 predict``: find named things in pictures, print a table, write annotated pictures."""

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from detectron2.structures import Instances
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.data.image_io import read_image
from detclip2.errors import UserError
from detclip2.files import write_whole
from detclip2.predictor import OpenVocabularyPredictor
from detclip2.visualize import draw_instances
from detclip2.vocabulary import Vocabulary

ROWS_SHOWN = 20
WIDTH_IN_A_FILE = 120  # a table that is piped into a file should not be folded at 80 columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of pictures"
    )
    names = parser.add_mutually_exclusive_group(required=True)
    names.add_argument("--names", help='what to look for, as "red apple, fire engine"')
    names.add_argument(
        "--names-file", type=Path, metavar="FILE", help="names, one a line, or a .csv"
    )
    names.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="a saved vocabulary (.safetensors)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="where annotated pictures go"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--score-threshold", type=_fraction, metavar="X", help="drop scores below X, from 0 to 1"
    )
    parser.add_argument(
        "--nms-threshold",
        type=_fraction,
        metavar="X",
        help="of two boxes of a name that overlap more than X (IoU), drop the worse",
    )
    parser.add_argument(
        "--class-agnostic-nms",
        action="store_true",
        default=None,
        help="let boxes of different names drop each other",
    )
    parser.add_argument(
        "--max-detections", type=_count, metavar="N", help="keep the best N of a picture"
    )


def run(args: argparse.Namespace) -> int:
    """Detect in every picture; 2 if one of them could not be done."""
    vocabulary = _vocabulary(args)  # before the model is loaded: a mistake is told at once
    pictures = list(_pictures(args.images))
    _make_folder(args.output)
    predictor = OpenVocabularyPredictor(*config_and_weights(args), device=args.device)
    predictor.set_vocabulary(vocabulary)
    # A name that the terminal cannot show must not stop the run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_A_FILE)
    failed = 0
    for picture, annotated in zip(pictures, _outputs(pictures, args.output), strict=True):
        try:
            image = read_image(picture)
            instances = predictor(
                image,
                score_threshold=args.score_threshold,
                nms_threshold=args.nms_threshold,
                class_agnostic_nms=args.class_agnostic_nms,
                max_detections=args.max_detections,
            )
            _write(draw_instances(image, instances), annotated)
        except UserError as error:
            print(f"detclip2: {error}", file=sys.stderr)
            failed += 1
            continue
        _report(console, picture, instances, annotated)
    return 2 if failed else 0


def _vocabulary(args: argparse.Namespace) -> Vocabulary:
    if args.vocabulary is not None:
        return Vocabulary.load(args.vocabulary)
    if args.names_file is not None:
        return Vocabulary.from_file(args.names_file)
    return Vocabulary.from_text(args.names)


def _pictures(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, and the pictures in the folders, by name."""
    suffixes = Image.registered_extensions().keys()
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
            yield path
            continue
        try:
            found = [file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes]
        except OSError as error:
            raise UserError(f"{path}: this folder cannot be read: {error.strerror}") from None
        if not found:
            raise UserError(f"{path}: there is no picture in this folder")
        yield from found


def _outputs(pictures: list[Path], folder: Path) -> Iterator[Path]:
    """Where each annotated picture goes: names that no other one has, and no picture of the input.

    JPEG stays JPEG, everything else becomes PNG.
    """
    taken = {picture.absolute() for picture in pictures}
    for picture in pictures:
        suffix = ".jpg" if picture.suffix.lower() in (".jpg", ".jpeg") else ".png"
        number = 1
        while True:
            ending = f"-{number}" if number > 1 else ""
            path = folder / f"{picture.stem}.detections{ending}{suffix}"
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


def _write(image: np.ndarray, path: Path) -> None:
    """Write a picture, whole or not at all."""
    picture = Image.fromarray(image)
    image_format = "JPEG" if path.suffix == ".jpg" else "PNG"
    try:
        write_whole(path, lambda file: picture.save(file, image_format, quality=95))
    except OSError as error:
        raise UserError(f"{path}: this picture cannot be written: {error}") from None


def _report(console: Console, picture: Path, instances: Instances, annotated: Path) -> None:
    """The table of a picture: name, score, box, best first."""
    # Text, not str: a name may hold what rich takes for markup.
    console.print(Text(f"{picture}: {len(instances)} found", style="bold"), soft_wrap=True)
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
    console.print(Text(f"annotated picture: {annotated}"), soft_wrap=True)


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
