"""Captions and the tokens of their phrases (GLIP, sec. 3.1)."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SEPARATOR = ". "
_IN_BRACKETS = re.compile(r"\(.*\)")

Span = tuple[int, int]


class Caption(NamedTuple):
    """A text, and the characters of some phrases in it."""

    text: str
    spans: list[list[Span]]
    """For each phrase its [begin, end) pairs of characters; none if it is not in the text."""


def clean_name(name: str) -> str:
    """A category name as words: "bow_(weapon)" -> "bow", as GLIP cleans names of data sets.

    A name that is all brackets is kept.
    """
    bare = _IN_BRACKETS.sub("", name).replace("_", " ")
    return " ".join((bare if bare.strip() else name).split())


def caption_of_names(names: Sequence[str], order: Sequence[int] | None = None) -> Caption:
    """The caption of M names, joined by ". " without one at the end.

    Args:
        names: the M phrases of the result.
        order: which of them the caption has, in its order; None: all.
    """
    text = ""
    spans: list[list[Span]] = [[] for _ in names]
    for i in range(len(names)) if order is None else order:
        text += SEPARATOR if text else ""
        spans[i].append((len(text), len(text) + len(names[i])))
        text += names[i]
    return Caption(text, spans)


def caption_among(
    own: Caption, others: Sequence[str], lengths: Sequence[int], limit: int, order: Sequence[int]
) -> Caption:
    """A caption between captions of other images, as many as fit, each ended by ".".

    Args:
        own: the caption, with the spans of its phrases.
        others: of other images.
        lengths: tokens of each text, the own one first.
        limit: tokens of a caption, without its start and end.
        order: a permutation of the texts, the own one being 0.
    """
    kept = names_within(lengths, 1, limit - 1, order)  # the last text has a "." too
    if 0 not in kept:  # it fills the limit alone
        return own
    text, first = "", 0
    for i in kept:
        if i == 0:
            first = len(text)
        piece = own.text if i == 0 else others[i - 1]
        text += piece + (" " if piece.rstrip().endswith(".") else SEPARATOR)
    return Caption(
        text.rstrip(), [[(begin + first, end + first) for begin, end in s] for s in own.spans]
    )


def pack(lengths: Sequence[int], limit: int, most: int | None = None) -> Iterator[list[int]]:
    """Split names, in order, into captions that fit.

    Args:
        lengths: tokens of each name.
        limit: tokens of a caption, without its start and end. A longer name gets a caption of its
            own.
        most: names of a caption; None: as many as fit.

    Returns:
        Indices into the names, for each caption.
    """
    members: list[int] = []
    used = 0
    for i, length in enumerate(lengths):
        if members and (used + 1 + length > limit or len(members) == most):
            yield members
            members, used = [], 0
        used += length + bool(members)  # a token between two names
        members.append(i)
    if members:
        yield members


def token_map(spans: Sequence[Sequence[Span]], offsets: Tensor) -> Tensor:
    """The tokens of each phrase of a caption: those that share a character with one of its spans.

    GLIP's code looks up the tokens of a span's first and last character, and up to two characters
    further inside where these have none. This is the same, and exact for the rest.

    Args:
        spans: of M phrases, see `Caption`.
        offsets: (T, 2) characters [begin, end) of each token; empty for special tokens.

    Returns:
        (M, T) bool.
    """
    begin, end = offsets.unbind(-1)
    rows = torch.zeros(len(spans), len(offsets), dtype=torch.bool, device=offsets.device)
    for row, pairs in zip(rows, spans, strict=True):
        for first, last in pairs:
            row |= (begin < last) & (end > first) & (end > begin)
    return rows


def mean_weights(tokens_of: Tensor) -> Tensor:
    """The weights with which a sum over tokens is the mean over those of a phrase.

    Args:
        tokens_of: (M, T) bool, the tokens of M phrases.

    Returns:
        (T, M) float32; each column sums to 1, or is 0 for a phrase without tokens.
    """
    weights = tokens_of.float()
    return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1)).T


def names_within(
    lengths: Sequence[int], num_positives: int, limit: int, order: Sequence[int]
) -> list[int]:
    """The names of a training caption: as many as fit, positives first, in a given order.

    Args:
        lengths: tokens of each name, positives first.
        num_positives: how many are positive.
        limit: tokens of a caption, without its start and end.
        order: a permutation of the names; decides which stay, and the order of the result.
    """
    chosen: set[int] = set()
    used = 0
    for i in sorted(order, key=lambda i: i >= num_positives):  # stable
        if used + lengths[i] + bool(chosen) <= limit:
            used += lengths[i] + bool(chosen)
            chosen.add(i)
    return [i for i in order if i in chosen]
