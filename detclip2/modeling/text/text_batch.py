"""The distinct phrases of a batch, each to be encoded once (sec. 3.1)."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor

from detclip2.modeling.layers.collectives import all_gather_with_grad


@dataclass
class PhraseBatch:
    """The phrases of B samples, without duplicates, and which of them belong to which sample."""

    phrases: list[str]
    """M distinct phrases, in the order in which they first occur."""
    index: list[Tensor]
    """For each sample an int64 tensor: where its own phrases, in their order, are in `phrases`."""
    num_positives: list[int]
    """For each sample how many of its own phrases, the first ones, are positive."""
    own_only: list[bool]
    """For each sample: do only its own phrases serve it as negatives?"""
    not_exhaustive: list[Tensor]
    """For each sample the numbers, among its own phrases, of those not boxed exhaustively."""

    @classmethod
    def from_samples(cls, samples: Sequence[Mapping[str, Any]]) -> "PhraseBatch":
        """Join the phrases of B samples.

        Args:
            samples: each has ``phrases`` (list of str) and ``num_positives`` (int), and perhaps
                ``own_phrases_only`` (bool) and ``not_exhaustive`` (indices into its phrases).
        """
        number: dict[str, int] = {}
        index = [
            torch.tensor(
                [number.setdefault(p, len(number)) for p in sample["phrases"]], dtype=torch.int64
            )
            for sample in samples
        ]
        return cls(
            phrases=list(number),
            index=index,
            num_positives=[int(sample["num_positives"]) for sample in samples],
            own_only=[bool(sample.get("own_phrases_only", False)) for sample in samples],
            not_exhaustive=[
                torch.as_tensor(sample.get("not_exhaustive", ()), dtype=torch.int64)
                for sample in samples
            ],
        )

    def __len__(self) -> int:
        """B, the number of samples."""
        return len(self.index)

    def part(self, part: slice) -> "PhraseBatch":
        """Some of the samples, with the phrases of all."""
        return PhraseBatch(
            phrases=self.phrases,
            index=self.index[part],
            num_positives=self.num_positives[part],
            own_only=self.own_only[part],
            not_exhaustive=self.not_exhaustive[part],
        )

    def positives(self, b: int) -> Tensor:
        """Where the positive phrases of sample ``b`` are in ``phrases``."""
        return self.index[b][: self.num_positives[b]]

    def targets_of(self, b: int, gt_classes: Tensor) -> Tensor:
        """Turn indices (N,) into sample ``b``'s own phrases into indices into ``phrases``."""
        return self.index[b].to(gt_classes.device)[gt_classes]

    def negatives_valid(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, M) bool: may an anchor of image b that is on no box be taught "not phrase m"?

        False for phrases whose instances are not all boxed, and for phrases of other samples where
        a sample asks for its own only: what another image shows may well be here too, unboxed.
        """
        valid = torch.ones(len(self), len(self.phrases), dtype=torch.bool)
        for b, index in enumerate(self.index):
            if self.own_only[b]:
                valid[b] = False
                valid[b, index] = True
            valid[b, index[self.not_exhaustive[b]]] = False
        return valid.to(device)


def gather_phrases(batch: PhraseBatch, embeddings: Tensor) -> tuple[PhraseBatch, Tensor]:
    """Join the phrases of all processes: M_B distinct ones, in the same order everywhere.

    A phrase that several processes have encoded is taken from the first of them, and the gradient
    of all processes flows back there, as in :func:`all_gather_with_grad`, whose conditions hold.

    Args:
        batch: the phrases of this process's samples; none is allowed.
        embeddings: (M, D), those of ``batch.phrases``.

    Returns:
        The same samples with indices into the M_B phrases, and the embeddings (M_B, D).

    Raises:
        ValueError: there is not one embedding for each phrase.
    """
    if len(embeddings) != len(batch.phrases):
        raise ValueError(f"{len(embeddings)} embeddings for {len(batch.phrases)} phrases")
    if comm.get_world_size() == 1:
        return batch, embeddings
    everyone = [phrase for phrases in comm.all_gather(batch.phrases) for phrase in phrases]
    row: dict[str, int] = {}  # where each phrase first occurs among everyone's
    for i, phrase in enumerate(everyone):
        row.setdefault(phrase, i)
    number = {phrase: m for m, phrase in enumerate(row)}
    rows = torch.tensor(list(row.values()), dtype=torch.int64)
    renumber = torch.tensor([number[phrase] for phrase in batch.phrases], dtype=torch.int64)
    gathered = dataclasses.replace(
        batch, phrases=list(number), index=[renumber[index] for index in batch.index]
    )
    return gathered, all_gather_with_grad(embeddings)[rows.to(embeddings.device)]
