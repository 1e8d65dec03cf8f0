"""Tokens of phrases, made where samples are: in the worker processes of the data loader."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

MAX_KNOWN = 2**16
"""Phrases of which something is kept: names of categories come again, captions do not."""


def not_known(phrases: Sequence[str], known: dict[str, Any]) -> list[int]:
    """Indices of the phrases that are to be added to what is known.

    Args:
        phrases: M phrases.
        known: phrase -> what is kept of it; emptied first, if it would hold more than `MAX_KNOWN`.
    """
    fresh = [m for m, phrase in enumerate(phrases) if phrase not in known]
    if not fresh or len(known) + len(fresh) <= MAX_KNOWN:
        return fresh
    known.clear()
    return [*range(len(phrases))]


class PhraseTokens:
    """Makes tokens of the phrases of a sample, as `TokenTower.tokenize` does.

    Args:
        tokenizer: of the text tower.
        max_length: maximum tokens a phrase, start and end included.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, phrases: Sequence[str]) -> np.ndarray:
        """M phrases -> (3, M, T) int32, see `join_tokens`."""
        fresh = [phrases[m] for m in not_known(phrases, self._known)]
        if fresh:
            self._known.update(zip(fresh, self._tokens(fresh), strict=True))
        return join_tokens([self._known[p] for p in phrases], self.tokenizer.pad_token_id)

    def _tokens(self, phrases: list[str]) -> list[np.ndarray]:
        if get_worker_info() is not None:  # worker processes are parallel already
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        found = self.tokenizer(
            phrases,
            truncation=True,
            max_length=self.max_length,
            return_special_tokens_mask=True,
        )
        rows = zip(
            *(found[key] for key in ("input_ids", "attention_mask", "special_tokens_mask")),
            strict=True,
        )
        return [np.array(row, np.int32) for row in rows]


def join_tokens(rows: Sequence[np.ndarray], padding: int) -> np.ndarray:
    """Tokens of single texts as one array, padded on the right to the longest.

    Args:
        rows: M arrays (3, T) of integers: tokens, 1 for each of them, and 1 for those that mark the
            start and the end.
        padding: the token of padding, which has 0 and 1 there.

    Returns:
        (3, M, T) int32.
    """
    length = max((row.shape[1] for row in rows), default=0)
    joined = np.empty((3, len(rows), length), np.int32)
    joined[0], joined[1], joined[2] = padding, 0, 1
    for m, row in enumerate(rows):
        joined[:, m, : row.shape[1]] = row
    return joined
