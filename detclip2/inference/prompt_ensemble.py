"""Prompts to embeddings: many at a time, and the mean of those that say the same."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from detclip2.utils.errors import UserError

PhraseEncoder: TypeAlias = Callable[[list[str]], Tensor]
"""M prompts -> (M, D), one row a prompt, in order."""

BATCH_SIZE = 256  # prompts a call of the text encoder


def mean_embeddings(groups: Sequence[Sequence[str]], encode_phrases: PhraseEncoder) -> Tensor:
    """One embedding a group of prompts: the mean of their unit-length embeddings.

    Each distinct prompt is encoded once, `BATCH_SIZE` at a time.

    Args:
        groups: R groups, none empty.
        encode_phrases: the text encoder.

    Returns:
        (R, D) unit-length rows on the CPU, float32.

    Raises:
        UserError: the encoder gave NaN or infinity.
    """
    texts = list(dict.fromkeys(text for group in groups for text in group))
    units = F.normalize(_encode_in_batches(texts, encode_phrases), dim=1)
    position = {text: i for i, text in enumerate(texts)}
    row = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    unit = torch.tensor([position[text] for group in groups for text in group])
    sums = torch.zeros(len(groups), units.shape[1]).index_add_(0, row, units[unit])
    means = F.normalize(sums, dim=1)
    if not means.isfinite().all():
        raise UserError("the text encoder gives NaN or infinity: its weights are damaged")
    return means


def batches_of(texts: Sequence[str]) -> list[list[str]]:
    """`BATCH_SIZE` texts at a time, for an encoder's memory grows with them; [[]] of none."""
    starts = range(0, max(len(texts), 1), BATCH_SIZE)
    return [list(texts[i : i + BATCH_SIZE]) for i in starts]


def _encode_in_batches(texts: Sequence[str], encode_phrases: PhraseEncoder) -> Tensor:
    """(M, D) on the CPU, float32, with a progress bar where it takes several calls."""
    batches: Iterable[list[str]] = batches_of(texts)
    if len(texts) > BATCH_SIZE:
        console = Console(stderr=True)
        batches = track(batches, "encoding names", transient=True, console=console)
    return torch.cat([encode_phrases(batch).detach().float().cpu() for batch in batches])


def twins(embeddings: Tensor) -> Iterator[tuple[int, int]]:
    """Pairs of rows (first < second) of unit length that are the same."""
    for start in range(0, len(embeddings), 1024):
        similarity = embeddings[start : start + 1024] @ embeddings.T
        # Rounding leaves a unit vector's square within 1e-6 of 1.
        for pair in (similarity > 1 - 1e-6).triu(start + 1).nonzero():
            yield int(pair[0]) + start, int(pair[1])
