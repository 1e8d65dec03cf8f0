"""``detclip2 vocabulary``: encode names once, into a file that replaces them."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detclip2.commands.example_boxes import examples_in, images_of, report
from detclip2.commands.model_arguments import add_model_arguments, load_predictor
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.finetuning.coco_check import OwnData
from detclip2.inference.examples import ExampleProjector, with_rows
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import SYNONYM_RULES, Vocabulary
from detclip2.utils.errors import UserError

EXAMPLE = "detclip2 vocabulary names.txt --output names.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "names",
        nargs="?",
        metavar="NAMES",
        help="a file of names, one per line, or a .csv with the column `name` and optionally "
        f"`synonyms` and `definition`; or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the vocabulary, .safetensors"
    )
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="a folder of images with a .json of boxes in COCO's format: what is in the boxes of a "
        "name stands for it, beside NAMES or without them (docs/vocabulary.md)",
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
    if args.names is None and args.examples is None:
        raise UserError("there is nothing to encode: give a file of names, or --examples")
    # Before the model is loaded: errors are reported at once.
    examples = None if args.examples is None else examples_in(args.examples)
    vocabulary = _vocabulary(args, [] if examples is None else examples.names)
    predictor = load_predictor(args)
    if predictor.model.reads_names:
        raise UserError("this model reads names: it needs no vocabulary file, give it the names")
    vocabulary = predictor.encode(vocabulary)
    if examples is not None:
        vocabulary = _with_examples(vocabulary, examples, predictor)
    vocabulary.save(args.output)
    print(f"{args.output}: {vocabulary}")
    return 0


def _with_examples(
    vocabulary: Vocabulary, examples: OwnData, predictor: OpenVocabularyPredictor
) -> Vocabulary:
    """The vocabulary with the rows of examples."""
    projector = ExampleProjector.of(predictor)
    label_of = {label.casefold(): label for label in vocabulary.labels}
    rows, used = projector.rows(predictor, images_of(examples))
    report(examples, used)
    return with_rows(vocabulary, {label_of[name.casefold()]: row for name, row in rows.items()})


def _vocabulary(args: argparse.Namespace, more: list[str]) -> Vocabulary:
    """Of NAMES, and of the names of examples that are not among them."""
    templates = args.template or ("{}",)
    if args.names is None:
        return Vocabulary.from_names(more, templates)
    named = _of_names(args, templates)
    known = {label.casefold() for label in named.labels}
    if not (new := [name for name in more if name.casefold() not in known]):
        return named
    others = Vocabulary.from_names(new, templates, synonyms=named.synonyms)
    return replace(
        named, labels=named.labels + others.labels, prompts=named.prompts + others.prompts
    )


def _of_names(args: argparse.Namespace, templates: Sequence[str]) -> Vocabulary:
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
