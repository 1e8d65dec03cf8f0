"""Learned offsets of the text of names: prompt tuning (GLIP, arXiv 2112.03857, sec. 4.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PhraseOffsets(nn.Module):
    """An offset of the embedding of each of C phrases; other phrases stay as they are.

    Args:
        phrases: C distinct phrases.
        width: D.
    """

    def __init__(self, phrases: Sequence[str], width: int) -> None:
        super().__init__()
        self.row_of = {phrase: row for row, phrase in enumerate(phrases)}
        self.offsets = nn.Parameter(torch.zeros(len(self.row_of), width))

    def forward(self, phrases: Sequence[str], embeddings: Tensor) -> Tensor:
        """Add the offsets to embeddings of unit length.

        Args:
            phrases: M phrases.
            embeddings: (M, D), of any length.

        Returns:
            (M, D); of phrases without an offset those that were given.
        """
        rows = torch.tensor([self.row_of.get(p, -1) for p in phrases], device=embeddings.device)
        moved = F.normalize(embeddings, dim=1) + self.offsets[rows.clamp(min=0)]
        return torch.where((rows >= 0)[:, None], moved, embeddings)


class TokenOffsets(nn.Module):
    """An offset of the state of each token of C names, wherever a caption lists them.

    GLIP ties its offsets to the positions of one caption. Here they belong to the tokens of names,
    so that captions may have these names in any order, any number of them, and others.

    Args:
        names: the tokens of each of C names; names without tokens have no offsets.
        width: of a token's state.
    """

    def __init__(self, names: Sequence[Sequence[int]], width: int) -> None:
        super().__init__()
        self.names: dict[int, list[tuple[list[int], int]]] = {}  # by first token: tokens, first row
        rows = 0
        for name in dict.fromkeys(map(tuple, names)):
            if name:
                self.names.setdefault(name[0], []).append((list(name), rows))
                rows += len(name)
        for own in self.names.values():
            own.sort(key=lambda entry: -len(entry[0]))  # the longest match counts
        self.offsets = nn.Parameter(torch.zeros(rows, width))

    def forward(self, tokens: Tensor, boundary: Tensor, states: Tensor) -> Tensor:
        """Add the offsets.

        Args:
            tokens: (B, T) int64.
            boundary: (B, T) bool: tokens that separate names: start, end, padding, separators.
            states: (B, T, width).

        Returns:
            (B, T, width).
        """
        pairs = zip(tokens.tolist(), boundary.tolist(), strict=True)
        rows = torch.tensor([self._rows(*pair) for pair in pairs], device=states.device)
        moved = states + self.offsets[rows.clamp(min=0)]
        return torch.where((rows >= 0)[..., None], moved, states)

    def _rows(self, tokens: list[int], boundary: list[bool]) -> list[int]:
        """The row of each token; -1 for those of no name."""
        rows = [-1] * len(tokens)
        for start, token in enumerate(tokens):
            if start and not boundary[start - 1]:
                continue
            for name, first in self.names.get(token, ()):
                end = start + len(name)
                if tokens[start:end] == name and (end == len(tokens) or boundary[end]):
                    rows[start:end] = range(first, first + len(name))
                    break
        return rows
