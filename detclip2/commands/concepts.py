"""``detclip2 concepts``: build a concept dictionary from category lists, phrases and WordNet."""

import argparse
from pathlib import Path

from detclip2.data.text.concept_sources import (
    WORDNET_FOLDER,
    WordNet,
    add_definitions,
    merge_concepts,
    read_categories,
    read_phrases,
)
from detclip2.data.text.concepts import Concept, ConceptDictionary
from detclip2.utils.errors import UserError

EXAMPLE = "detclip2 concepts --categories lvis=lvis_v1_train.json --output concepts.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the dictionary, .jsonl"
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        default=[],
        metavar="SOURCE=FILE",
        help="category lists: .json of COCO, LVIS or Objects365, or of names; .csv; .txt",
    )
    parser.add_argument(
        "--phrases",
        nargs="+",
        default=[],
        metavar="SOURCE=FILE",
        help="noun phrases: .jsonl of `detclip2 phrases`, or .txt with one a line",
    )
    parser.add_argument(
        "--min-count",
        type=int,
        default=100,
        metavar="N",
        help="rarer noun phrases are no entries (default: 100)",
    )
    parser.add_argument(
        "--wordnet",
        nargs="?",
        const=WORDNET_FOLDER,
        metavar="DIR",
        help="add definitions and synonyms of WordNet to entries without a definition "
        f"(its folder if given: {WORDNET_FOLDER})",
    )
    parser.add_argument(
        "--wordnet-under",
        nargs="+",
        default=[],
        metavar="SYNSET",
        help='add the nouns below these, such as "animal.n.01"',
    )


def run(args: argparse.Namespace) -> int:
    """Build, write, and print how many entries there are."""
    concepts: list[Concept] = []
    for source, path in map(_named, args.categories):
        concepts += read_categories(path, source)
    for source, path in map(_named, args.phrases):
        concepts += read_phrases(path, source, args.min_count)
    concepts = merge_concepts(concepts)
    if args.wordnet or args.wordnet_under:
        wordnet = WordNet(args.wordnet or WORDNET_FOLDER)
        concepts = list(add_definitions(concepts, wordnet))
        below = (concept for name in args.wordnet_under for concept in wordnet.below(name))
        concepts = merge_concepts([*concepts, *below])
    dictionary = ConceptDictionary(concepts)
    dictionary.save(args.output)
    defined = sum(bool(concept.definition) for concept in dictionary)
    print(f"{args.output}: {len(dictionary)} entries, {defined} with a definition")
    return 0


def _named(argument: str) -> tuple[str, Path]:
    source, equals, path = argument.partition("=")
    if not equals or not source or "+" in source:
        raise UserError(f"{argument!r}: expected SOURCE=FILE, such as lvis=categories.json")
    if not Path(path).is_file():
        raise UserError(f"{path}: this file does not exist")
    return source, Path(path)
