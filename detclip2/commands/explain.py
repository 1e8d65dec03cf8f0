"""``detclip2 explain``: draw the region that each noun phrase of a caption selects."""

import argparse
from pathlib import Path

from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detclip2.commands.model_arguments import add_model_arguments, load_predictor
from detclip2.commands.tables import console_for_tables
from detclip2.inference.explain import Explanation, explain
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.visualization.explanation import draw_explanation

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}

EXAMPLE = 'detclip2 explain kitchen.jpg --caption "a cat on a red chair" --output figure.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--caption", required=True, help='caption of the image, such as "a cat on a red chair"'
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the figure to write, .png or .jpg",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the figure and print the table."""
    if args.output.suffix.lower() not in FORMATS:
        raise UserError(f"--output {args.output}: the name of the figure must end in .png or .jpg")
    if args.output.absolute() == args.image.absolute():
        raise UserError(f"--output {args.output}: the figure would replace the image")
    if not args.image.exists():
        raise UserError(f"{args.image}: this image does not exist")
    predictor = load_predictor(args)
    explanation = explain(predictor, args.image, args.caption)
    figure = Image.fromarray(draw_explanation(explanation))
    image_format = FORMATS[args.output.suffix.lower()]
    try:
        write_whole(args.output, lambda file: figure.save(file, image_format, quality=95))
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written: {error}") from None
    console = console_for_tables()
    console.print(_table(explanation))
    console.print(Text(f"figure: {args.output}"), soft_wrap=True)
    return 0


def _table(explanation: Explanation) -> Table:
    table = Table("phrase", box=SIMPLE_HEAD)
    table.add_column("score", justify="right")
    table.add_column("region: x1, y1, x2, y2", justify="right")
    for phrase, score, box in zip(
        explanation.phrases, explanation.scores, explanation.boxes, strict=True
    ):
        corners = ", ".join(f"{corner:.0f}" for corner in box)
        # Text, not str: rich would read brackets in a phrase as markup.
        table.add_row(Text(phrase, overflow="fold"), f"{score:.3f}", corners)
    return table
