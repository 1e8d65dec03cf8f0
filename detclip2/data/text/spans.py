"""Spans [begin, end) of characters of a caption, and their phrases."""

import re
from collections.abc import Iterable, Sequence

from detclip2.data.text.clean import clean_phrase, is_kept

Span = tuple[int, int]


def is_span(span: Sequence[int], caption: str) -> bool:
    """Whether `span` is a pair of indices with at least one character of the caption."""
    return (
        len(span) == 2
        and all(isinstance(place, int) for place in span)
        and 0 <= span[0] < span[1] <= len(caption)
    )


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
