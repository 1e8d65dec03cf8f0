"""Prompt ensembles: the mean embeddings of groups of prompts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from detclip2.modeling.text.text_tower import batches_of
from detclip2.utils.errors import UserError

PhraseEncoder: TypeAlias = Callable[[list[str]], Tensor]
"""M prompts -> (M, D), one row a prompt, in order."""


def mean_embeddings(
    groups: Sequence[Sequence[str]],
    encode_phrases: PhraseEncoder,
    progress: Callable[[Sequence[list[str]]], Iterable[list[str]]] = iter,
) -> Tensor:
    """One embedding for each group of prompts: the mean of their unit-length embeddings.

    Each distinct prompt is encoded once, `BATCH_SIZE` at a time.

    Args:
        groups: V groups, none empty.
        encode_phrases: the text encoder.
        progress: wraps the batches in order, e.g. with a progress bar.

    Returns:
        (V, D) unit-length rows on the CPU, float32.

    Raises:
        UserError: the encoder returns NaN or infinity.
    """
    texts = list(dict.fromkeys(text for group in groups for text in group))
    encoded = [
        encode_phrases(batch).detach().float().cpu() for batch in progress(batches_of(texts))
    ]
    units = F.normalize(torch.cat(encoded), dim=1)
    position = {text: i for i, text in enumerate(texts)}
    row = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    unit = torch.tensor([position[text] for group in groups for text in group])
    sums = torch.zeros(len(groups), units.shape[1]).index_add_(0, row, units[unit])
    means = F.normalize(sums, dim=1)
    if not means.isfinite().all():
        raise UserError("the text encoder gives NaN or infinity: its weights are damaged")
    return means


def twins(embeddings: Tensor) -> Iterator[tuple[int, int]]:
    """Index pairs of equal rows of (V, D) unit-length embeddings: each row with the next equal one.

    There are fewer than V pairs, where all equal rows can be V V / 2.
    """
    for start in range(0, len(embeddings), 1024):
        similarity = embeddings[start : start + 1024] @ embeddings.T
        # Rounding leaves a unit vector's square within 1e-6 of 1.
        equal = (similarity > 1 - 1e-6).triu(start + 1)
        for row in equal.any(dim=1).nonzero().squeeze(1).tolist():
            yield row + start, int(equal[row].byte().argmax())
