"""``detclip2 export``: write a model as a graph of ONNX or OpenVINO."""

import argparse
import re
from pathlib import Path

from PIL import Image

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.export.files import write_onnx, write_openvino
from detclip2.export.graph import export_onnx
from detclip2.export.precision import PRECISIONS
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}

EXAMPLE = 'detclip2 export --vocabulary folded --names "bus, traffic light" --output street.onnx'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the graph, .onnx or .xml"
    )
    parser.add_argument(
        "--format", choices=SUFFIXES, default="onnx", help="openvino also writes a .bin beside it"
    )
    parser.add_argument(
        "--vocabulary",
        choices=("folded", "input"),
        default="input",
        help="folded: the graph detects these names alone; input: it detects any vocabulary that "
        "is given to it (default)",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--names", help='names to fold in, such as "red apple, fire engine"')
    names.add_argument(
        "--names-file",
        type=Path,
        metavar="FILE",
        help="a file of names, one per line, a .csv, or a saved vocabulary (.safetensors)",
    )
    parser.add_argument(
        "--size",
        type=_size,
        default="free",
        metavar="HxW",
        help="height and width of the input, px, such as 800x1344; or free (default)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the products in backbone and towers (default: fp32)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="for int8: a folder of images of the kind that will be seen, 50 or more",
    )
    add_model_arguments(parser, device=False)


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    if args.output.suffix != SUFFIXES[args.format]:
        raise UserError(
            f"{args.output}: the name of a graph of {args.format} ends in {SUFFIXES[args.format]}"
        )
    vocabulary = _vocabulary(args)  # before the model is loaded: errors are reported at once
    images = _images(args)
    predictor = OpenVocabularyPredictor(*config_and_weights(args), device="cpu")
    graph = export_onnx(predictor, vocabulary, args.size, args.precision, images)
    if args.format == "onnx":
        write_onnx(graph, args.output)
    else:
        write_openvino(graph, args.output, half=args.precision == "fp16")
    size = "free" if args.size is None else "x".join(map(str, args.size))
    detects = "the vocabulary is an input" if vocabulary is None else str(vocabulary)
    print(f"{args.output}: {args.precision}, size {size}; {detects}")
    return 0


def _vocabulary(args: argparse.Namespace) -> Vocabulary | None:
    given = args.names is not None or args.names_file is not None
    if args.vocabulary == "input":
        if given:
            raise UserError(
                "names are folded in by --vocabulary folded; for a graph with the vocabulary as an "
                "input, `detclip2 vocabulary` writes them into a file"
            )
        return None
    if not given:
        raise UserError("--vocabulary folded needs the names: give --names or --names-file")
    if args.names is not None:
        return Vocabulary.from_text(args.names)
    saved = args.names_file.suffix == ".safetensors"
    return Vocabulary.load(args.names_file) if saved else Vocabulary.from_file(args.names_file)


def _images(args: argparse.Namespace) -> list[Path]:
    """The images to calibrate on."""
    if (args.precision == "int8") != (args.calibration is not None):
        raise UserError("--precision int8 and --calibration go together: give both or none")
    if args.calibration is None:
        return []
    suffixes = Image.registered_extensions().keys()
    try:
        found = [p for p in sorted(args.calibration.iterdir()) if p.suffix.lower() in suffixes]
    except OSError as error:
        reason = error.strerror
        raise UserError(f"{args.calibration}: this folder cannot be read: {reason}") from None
    if not found:
        raise UserError(f"{args.calibration}: there is no image in this folder")
    return found


def _size(text: str) -> tuple[int, int] | None:
    if text == "free":
        return None
    if not (match := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither HxW, such as 800x1344, nor free")
    return int(match[1]), int(match[2])
