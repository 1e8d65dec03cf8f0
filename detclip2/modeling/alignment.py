"""Similarity of regions and phrases: S in R^{K x M} (paper, eq. 1)."""

import itertools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ForRegions: TypeAlias = Callable[[Tensor], Tensor]
"""(..., K, D) regions -> (..., K, C) logits."""
Reduce = Literal["amax", "mean"]


class Alignment(nn.Module):
    """S = exp(scale) * <region, phrase> + bias, as logits.

    The paper gives the bare inner product and is silent on normalisation. A bare product of unit
    vectors cannot express the 0.01 prior that focal loss needs, so scale and bias are learned, as
    in GLIP. Phrases have unit length, regions any length unless ``normalize_regions`` is set.

    Args:
        prior: initial probability that a random region matches a random phrase.
        normalize_regions: scale regions to unit length too (as YOLO-World); needs a larger scale.
        initial_scale: initial exp(scale): 1, or about 10 with ``normalize_regions``.
    """

    def __init__(
        self, prior: float = 0.01, normalize_regions: bool = False, initial_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.normalize_regions = normalize_regions
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, regions: Tensor, phrases: Tensor) -> Tensor:
        """(..., K, D) regions and (M, D) phrases -> (..., K, M) logits."""
        return self.with_text(phrases)(regions)

    def with_text(self, phrases: Tensor) -> ForRegions:
        """S with fixed phrases, whose part of the work is done once.

        Args:
            phrases: (M, D) embeddings, of any length.

        Returns:
            A function of (..., K, D) regions that gives (..., K, M) logits.
        """
        columns = self.phrases(phrases).T

        def similarity(regions: Tensor) -> Tensor:
            product = self.regions(regions) @ columns
            if product.dtype != self.bias.dtype:  # autocast: the sum has the wider type
                return product + self.bias
            return product.add_(self.bias)  # in place: S of 13,204 names is large

        return similarity

    def chunks(self, phrases: Tensor, size: int) -> list[tuple[int, ForRegions]]:
        """S with at most ``size`` of the (M, D) phrases at a time.

        Returns:
            For each chunk the index of its first phrase, and `with_text` of the chunk.
        """
        return [
            (first, self.with_text(phrases[first : first + size]))
            for first in range(0, len(phrases), size)
        ]

    def regions(self, regions: Tensor) -> Tensor:
        """(..., D) region embeddings -> (..., D), as they enter the product."""
        return F.normalize(regions, dim=-1) if self.normalize_regions else regions

    def phrases(self, phrases: Tensor) -> Tensor:
        """(M, D) phrase embeddings -> (M, D), as they enter the product: unit times scale."""
        # One factor a phrase: `F.normalize` and then the scale go over all phrases twice as often.
        length = phrases.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return phrases * (self.log_scale.exp() / length)


class GroupedSimilarity:
    """S for labels with several columns: their synonyms, or the tokens of their phrases.

    Args:
        align: computes S for every column.
        group_of_row: (M,) the label of each row of the embeddings, int64 in [0, C), ascending,
            without gaps.
        reduce: a label has the S of its best column ("amax"), or their mean ("mean", as GLIP).
    """

    def __init__(self, align: Alignment, group_of_row: Tensor, reduce: Reduce = "amax") -> None:
        self.align = align
        self.group_of_row = group_of_row
        self.num_groups = int(group_of_row[-1]) + 1 if len(group_of_row) else 0
        self.reduce = reduce

    def __call__(self, regions: Tensor, phrases: Tensor) -> Tensor:
        """(K, D) regions and (M, D) phrases -> (K, C) logits."""
        return self.with_text(phrases)(regions)

    def with_text(self, phrases: Tensor) -> ForRegions:
        """See `Alignment.with_text`; the result has C columns."""
        of_rows = self.align.with_text(phrases)

        def similarity(regions: Tensor) -> Tensor:
            logits = of_rows(regions)
            groups = logits.new_full((len(logits), self.num_groups), -torch.inf)
            index = self.group_of_row.expand_as(logits)
            return groups.scatter_reduce_(1, index, logits, self.reduce, include_self=False)

        return similarity

    def chunks(self, phrases: Tensor, size: int) -> list[tuple[int, ForRegions]]:
        """See `Alignment.chunks`, for ``size`` labels; a label stays in one chunk."""
        firsts = torch.arange(0, self.num_groups, size, device=phrases.device)
        rows = [*torch.searchsorted(self.group_of_row, firsts).tolist(), len(phrases)]
        return [
            (first, self._rows(slice(a, b), first).with_text(phrases[a:b]))
            for first, (a, b) in zip(firsts.tolist(), itertools.pairwise(rows), strict=True)
        ]

    def _rows(self, rows: slice, first: int) -> "GroupedSimilarity":
        return GroupedSimilarity(self.align, self.group_of_row[rows] - first, self.reduce)


Align: TypeAlias = Alignment | GroupedSimilarity
"""(K, D) regions and (M, D) phrases -> (K, C) logits; C is M for an Alignment."""
