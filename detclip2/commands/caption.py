"""``detclip2 caption``: write a caption of an image, and show what its phrases mean."""

import argparse

from detclip2.commands.grounded_text import add_output_arguments, check_files, write_files
from detclip2.commands.model_arguments import load_predictor
from detclip2.inference.language import describe
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError

EXAMPLE = "detclip2 caption kitchen.jpg --model model --output figure.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_output_arguments(parser)
    parser.add_argument("--beam", type=int, metavar="N", help="texts that the search keeps; 1 is "
                        "greedy (default: the model's number)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the caption and the boxes of its phrases, and write the files."""
    check_files(args)
    if args.beam is not None and args.beam < 1:
        raise UserError(f"--beam {args.beam}: expected at least 1")
    predictor = load_predictor(args, thresholds=DetectionThresholds(args.threshold))
    found = describe(predictor, args.image, args.beam)
    print(found.text if found.is_complete else f"{found.text} ...")
    content = {
        "caption": found.text,
        "log_probability": found.log_probability,
        "is_complete": found.is_complete,
    }
    write_files(args, found, content)
    return 0
