"""Spans [begin, end) of characters of a caption, and their phrases."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from detclip2.data.text.clean import clean_phrase, is_kept

Span = tuple[int, int]


def is_span(span: Any, caption: str) -> bool:
    """Whether `span` is a pair of indices with at least one character of the caption."""
    return _is_pair(span) and 0 <= span[0] < span[1] <= len(caption)


def read_spans(marked: Any, caption: str) -> tuple[list[Span], list[Any]]:
    """The spans of a caption that an annotation marks, and its entries that are no spans.

    Args:
        marked: a list of spans; one span alone; None marks nothing. Anything else that json can
            hold is an entry that is no span.
        caption: the caption.
    """
    if marked is None:
        return [], []
    entries = marked if isinstance(marked, list) and not _is_pair(marked) else [marked]
    valid = [(entry[0], entry[1]) for entry in entries if is_span(entry, caption)]
    return valid, [entry for entry in entries if not is_span(entry, caption)]


def _is_pair(span: Any) -> bool:
    """Whether `span` is two integers; Python counts the booleans of json among them."""
    return isinstance(span, list | tuple) and len(span) == 2 and {*map(type, span)} == {int}


def join_spans(caption: str, spans: Iterable[Sequence[int]]) -> list[Span]:
    """The spans in ascending order; those with at most whitespace between them are joined.

    Args:
        caption: the caption.
        spans: valid spans, see `is_span`.
    """
    joined: list[Span] = []
    for begin, end in sorted((span[0], span[1]) for span in spans):
        if joined and not caption[joined[-1][1] : begin].strip():
            begin, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((begin, end))
    return joined


def find_phrase(caption: str, phrase: str) -> list[Span]:
    """Spans of a phrase in a caption, as whole words, ignoring case and kinds of whitespace."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    if not words:
        return []
    return [match.span() for match in re.finditer(rf"(?<!\w){words}(?!\w)", caption, re.IGNORECASE)]


def spans_of_phrases(
    caption: str, phrases: Sequence[str], marked: Iterable[Sequence[int]] = ()
) -> list[list[list[int]]]:
    """The [begin, end) pairs of each phrase in the caption, ascending.

    They are the spans of `marked` whose text is the phrase or, if there are none, those of
    `find_phrase`.

    Args:
        caption: the caption.
        phrases: M clean phrases.
        marked: spans of the data set, joined.
    """
    of_phrase: dict[str, set[Span]] = {}
    for begin, end in marked:
        of_phrase.setdefault(clean_phrase(caption[begin:end]).casefold(), set()).add((begin, end))
    return [
        [list(s) for s in sorted(of_phrase.get(p.casefold(), ()) or find_phrase(caption, p))]
        for p in phrases
    ]


def readable(caption: str) -> str:
    """The caption with a space for each control character and lone surrogate.

    Tokenizers accept it, and spans stay valid, since its length is the same.
    """
    if caption.isascii() and caption.isprintable():
        return caption
    return "".join(c if is_kept(c) else " " for c in caption)
