"""``detclip2 vocabulary``: encode names once, into a file that replaces them."""

import argparse
import os
from pathlib import Path

from detclip2.commands.model_arguments import add_model_arguments, load_predictor
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.inference.vocabulary import SYNONYM_RULES, Vocabulary
from detclip2.utils.errors import UserError

EXAMPLE = "detclip2 vocabulary names.txt --output names.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "names",
        metavar="NAMES",
        help="a file of names, one per line, or a .csv with the column `name` and optionally "
        f"`synonyms` and `definition`; or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the vocabulary, .safetensors"
    )
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help='template of the phrases, such as "a photo of a {}"; several are averaged '
        '(default: "{}")',
    )
    parser.add_argument(
        "--synonyms",
        choices=SYNONYM_RULES,
        help="score of a label with several names: of their mean embedding, or of the best name "
        "(default: mean for a file, no synonyms for a built-in list)",
    )
    parser.add_argument(
        "--definitions",
        action="store_true",
        help="append the definitions of a built-in list to its names, as is done for a .csv",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Encode and save."""
    if args.output.suffix != ".safetensors":  # readers recognise vocabularies by it
        raise UserError(f"{args.output}: a vocabulary's file name ends in .safetensors")
    vocabulary = _vocabulary(args)  # before the model is loaded: errors are reported at once
    predictor = load_predictor(args)
    if predictor.model.reads_names:
        raise UserError("this model reads names: it needs no vocabulary file, give it the names")
    vocabulary = predictor.encode(vocabulary)
    vocabulary.save(args.output)
    print(f"{args.output}: {vocabulary}")
    return 0


def _vocabulary(args: argparse.Namespace) -> Vocabulary:
    templates = args.template or ("{}",)
    if args.names in BUILTIN_NAMES:
        return Vocabulary.builtin(args.names, templates, args.synonyms, args.definitions)
    if not os.path.exists(args.names):
        raise UserError(
            f"{args.names}: neither a file of names nor a built-in list "
            f"({', '.join(BUILTIN_NAMES)})"
        )
    if args.definitions:
        raise UserError(f"--definitions is for a built-in list: {', '.join(BUILTIN_NAMES)}")
    return Vocabulary.from_file(args.names, templates, args.synonyms or "mean")
