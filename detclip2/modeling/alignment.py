"""How much a region and a phrase belong together: S in R^{K x M} (paper, eq. 1)."""

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ForRegions: TypeAlias = Callable[[Tensor], Tensor]
"""(..., K, D) regions -> (..., K, C) logits."""


class Alignment(nn.Module):
    """S = exp(scale) * <region, phrase> + bias, as logits.

    The paper gives the bare inner product and is silent on normalisation. A bare product of unit
    vectors cannot express the 0.01 prior that focal loss wants, so there is a learnable scale and
    bias, as in GLIP: phrases have unit length, regions are free (see ``normalize_regions``).

    Args:
        prior: probability that a random region matches a random phrase, at the start.
        normalize_regions: also bring regions to unit length (as YOLO-World); needs a larger scale.
        initial_scale: start of exp(scale); 1 with free regions, about 10 with unit ones.
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
        return self.given(phrases)(regions)

    def given(self, phrases: Tensor) -> ForRegions:
        """S of whatever regions with these phrases, whose own share of the work is done once."""
        columns = self.phrases(phrases).T

        def similarity(regions: Tensor) -> Tensor:
            product = self.regions(regions) @ columns
            if product.dtype != self.bias.dtype:  # autocast: the sum has the wider type
                return product + self.bias
            return product.add_(self.bias)  # in place: of 13,204 names a second S is no small thing

        return similarity

    def blocks(self, phrases: Tensor, size: int) -> list[tuple[int, ForRegions]]:
        """As :meth:`given` for at most ``size`` labels at a time: the first of them, and S."""
        return [
            (first, self.given(phrases[first : first + size]))
            for first in range(0, len(phrases), size)
        ]

    def regions(self, regions: Tensor) -> Tensor:
        """Region embeddings as they enter the product."""
        return F.normalize(regions, dim=-1) if self.normalize_regions else regions

    def phrases(self, phrases: Tensor) -> Tensor:
        """Phrase embeddings as they enter the product: unit length times the scale."""
        return F.normalize(phrases, dim=-1) * self.log_scale.exp()


class MaxOverSynonyms:
    """S where a label has several names, each with a row of its own: that of its best name.

    Args:
        align: gives S with every row.
        label_of_row: (M,) the label of each row, int64 in [0, C), ascending, none left out.
    """

    def __init__(self, align: Alignment, label_of_row: Tensor) -> None:
        self.align = align
        self.label_of_row = label_of_row

    def __call__(self, regions: Tensor, phrases: Tensor) -> Tensor:
        """(K, D) regions and (M, D) phrases -> (K, C) logits."""
        return self.given(phrases)(regions)

    def given(self, phrases: Tensor) -> ForRegions:
        """See :meth:`Alignment.given`."""
        of_rows = self.align.given(phrases)

        def best(regions: Tensor) -> Tensor:
            logits = of_rows(regions)
            best = logits.new_full((len(logits), int(self.label_of_row[-1]) + 1), -torch.inf)
            return best.scatter_reduce_(1, self.label_of_row.expand_as(logits), logits, "amax")

        return best

    def blocks(self, phrases: Tensor, size: int) -> list[tuple[int, ForRegions]]:
        """See :meth:`Alignment.blocks`; the rows of a label are never apart."""
        firsts = torch.arange(0, int(self.label_of_row[-1]) + 1, size, device=phrases.device)
        rows = [*torch.searchsorted(self.label_of_row, firsts).tolist(), len(phrases)]
        return [
            (first, MaxOverSynonyms(self.align, self.label_of_row[a:b] - first).given(phrases[a:b]))
            for first, (a, b) in zip(firsts.tolist(), itertools.pairwise(rows), strict=True)
        ]


Align: TypeAlias = Alignment | MaxOverSynonyms
"""(K, D) regions and (M, D) phrases -> (K, C) logits; C is M but for :class:`MaxOverSynonyms`."""
