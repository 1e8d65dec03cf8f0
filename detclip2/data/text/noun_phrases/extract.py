"""Noun phrases of a caption, by spaCy if its model is installed, else by the project's chunker."""

import functools
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from detclip2.data.text.noun_phrases import words as w
from detclip2.data.text.noun_phrases.chunker import Chunk, chunk
from detclip2.data.text.noun_phrases.tokens import MAX_CHARACTERS, tokenize
from detclip2.utils.errors import UserError

MAX_PHRASES = 32  # of a caption; of 335 real captions, none has more than 11
MAX_WORDS = 8  # of a phrase; longer runs of words are lists of tags or not English
MAX_WORD_LENGTH = 40  # characters
SPACY_MODEL = "en_core_web_sm"

Backend = Literal["auto", "spacy", "rules"]


def extract_noun_phrases(
    caption: str, backend: Backend = "auto", max_phrases: int = MAX_PHRASES
) -> list[str]:
    """Noun phrases of an English caption (paper, sec. 3.1; rules in ``docs/noun_phrases.md``).

    Args:
        caption: any text, of any script and length; only the first 20,000 characters are read.
        backend: "spacy" (as in the paper), "rules" (our chunker), or "auto": "spacy" if its model
            is installed, else "rules".
        max_phrases: maximum number of phrases; the first ones are kept.

    Returns:
        Distinct phrases in order of first appearance: lower case, one space between words, without
        leading articles, numbers and quantifiers. Empty if the caption has none.

    Raises:
        UserError: `backend` is "spacy" and spaCy or its model is not installed.
    """
    [(phrases, _)] = extract_stream([(caption, None)], backend, max_phrases)
    return phrases


def extract_stream(
    captions: Iterable[tuple[str, Any]], backend: Backend = "auto", max_phrases: int = MAX_PHRASES
) -> Iterator[tuple[list[str], Any]]:
    """The noun phrases of each of many captions, in order, which spaCy reads in batches.

    Args:
        captions: caption and what is kept beside it.
        backend: see `extract_noun_phrases`.
        max_phrases: see there.

    Yields:
        The phrases of a caption, and what was beside it.

    Raises:
        UserError: see there.
    """
    if backend == "auto":
        backend = "spacy" if spacy_is_available() else "rules"
    chunked: Iterator[tuple[Iterable[Chunk], Any]] = (
        _spacy_chunks(captions)
        if backend == "spacy"
        else ((chunk(caption), item) for caption, item in captions)
    )
    for chunks, item in chunked:
        yield _distinct(filter(None, map(_finish, chunks)), max_phrases), item


@functools.cache
def spacy_is_available() -> bool:
    """Whether spaCy and its small English model are installed."""
    return all(importlib.util.find_spec(name) for name in ("spacy", SPACY_MODEL))


@functools.cache
def _spacy_pipeline() -> Any:
    if not spacy_is_available():
        raise UserError(
            f"spaCy with its model {SPACY_MODEL} is not installed: install them, "
            'or choose the backend "rules".'
        )
    import spacy

    return spacy.load(SPACY_MODEL, exclude=["ner", "lemmatizer"])


def _spacy_chunks(captions: Iterable[tuple[str, Any]]) -> Iterator[tuple[Iterator[Chunk], Any]]:
    texts = ((" ".join(caption[:MAX_CHARACTERS].split()), item) for caption, item in captions)
    for document, item in _spacy_pipeline().pipe(texts, as_tuples=True):
        yield _chunks_of(document), item


def _chunks_of(document: Any) -> Iterator[Chunk]:
    for span in document.noun_chunks:
        following = document[span.end].lower_ if span.end < len(document) else ""
        words = [token for token in tokenize(span.text) if token[0].isalnum()]
        yield Chunk(words, following, span.start <= 1)


def _finish(found: Chunk) -> str | None:
    """The phrase of a chunk of either backend, stripped on the left; None if it names no object."""
    words = list(found.words)
    while words and _is_stripped(words[0]):
        words.pop(0)
    if not words or len(words) > MAX_WORDS or max(map(len, words)) > MAX_WORD_LENGTH:
        return None
    words[-1] = words[-1].removesuffix("'")  # of a quotation: 'two dogs'
    head, bare, before_of = words[-1], len(words) == 1, found.next_word == "of"
    if before_of and head in w.words_of("quantity nouns"):
        return None
    if head in w.words_of("relational nouns") and (bare or before_of):
        return None
    if bare and (len(head) == 1 or head in w.words_of("bare non-phrases")):
        return None
    if bare and w.tag_of(head) == w.SUBJECT:  # spaCy's chunks include pronouns
        return None
    if found.opens and found.next_word in ("of", "from") and _is_frame(words):
        return None
    return " ".join(words)


def _is_stripped(word: str) -> bool:
    tag = w.tag_of(word)
    return tag in (w.ARTICLE, w.QUANTIFIER) or word in w.words_of("degree adverbs")


def _is_frame(words: list[str]) -> bool:
    return " ".join(words) in w.words_of("frame nouns") or words in (["close up"], ["close", "up"])


def _distinct(phrases: Iterable[str], limit: int) -> list[str]:
    found: dict[str, None] = {}
    for phrase in phrases:
        if len(found) == limit:
            break
        found[phrase] = None
    return list(found)
