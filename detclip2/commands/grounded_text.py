"""What the commands ``ask`` and ``caption`` share: their images, their json and their figures."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from detclip2.commands.model_arguments import add_model_arguments
from detclip2.inference.language import GroundedText
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json, write_whole
from detclip2.visualization.language import draw_grounded

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the image, ``--output``, ``--json`` and the arguments of a model."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the figure to write, .png or "
                        ".jpg: the image with the boxes of the phrases")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="the file to write with the text "
                        "and the boxes, .json")  # fmt: skip
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="least score of a box "
                        "(default: the model's)")  # fmt: skip
    add_model_arguments(parser)


def check_files(args: argparse.Namespace) -> None:
    """Check the files of the arguments, before a model is loaded.

    Raises:
        UserError: the image does not exist, or a file would replace it or has another suffix.
    """
    if not args.image.exists():
        raise UserError(f"{args.image}: this image does not exist")
    for option, path, suffixes in (
        ("--output", args.output, tuple(FORMATS)),
        ("--json", args.json, (".json",)),
    ):
        if path is not None and path.suffix.lower() not in suffixes:
            raise UserError(f"{option} {path}: the name must end in {' or '.join(suffixes)}")
        if path is not None and path.absolute() == args.image.absolute():
            raise UserError(f"{option} {path}: the file would replace the image")


def write_files(args: argparse.Namespace, found: GroundedText, content: dict[str, Any]) -> None:
    """Write the figure and the json that the arguments ask for, and print the boxes.

    Args:
        args: of `add_output_arguments`.
        found: the text and its boxes.
        content: further keys of the json.
    """
    phrases = found.phrases()
    for row in phrases:
        corners = ", ".join(f"{corner:.0f}" for corner in row["box"])
        print(f"  {row['phrase']}: {row['score']:.2f} at {corners}")
    if args.json is not None:
        entry = {"file_name": str(args.image), **content, "phrases": phrases}
        _written("--json", args.json, lambda: write_json(args.json, entry))
    if args.output is not None:
        figure = Image.fromarray(draw_grounded(found))
        kind = FORMATS[args.output.suffix.lower()]
        _written(
            "--output",
            args.output,
            lambda: write_whole(args.output, lambda file: figure.save(file, kind, quality=95)),
        )


def _written(option: str, path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written: {error}") from None
