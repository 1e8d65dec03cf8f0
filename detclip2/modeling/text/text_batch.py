"""The distinct phrases of a batch with their embeddings, each encoded once (sec. 3.1)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import Tensor

from detclip2.modeling.layers.collectives import all_gather_with_grad


class Columns(Protocol):
    """What losses on boxes read of the text of B samples: its columns of S.

    A column is a phrase in `TextBatch`, and a token of a caption in `TokenBatch`.
    """

    def columns_of(self, b: int, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of S that match the N boxes of sample ``b``; see `TextBatch`."""

    def negatives_valid(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, M) bool: whether column m is a negative for the unmatched anchors of image b."""


@dataclass
class TextBatch:
    """The M distinct phrases of B samples, and the phrases of each sample."""

    phrases: list[str]
    """M distinct phrases, in the order in which they first occur."""
    embeddings: Tensor
    """(M, D), not normalised."""
    index: list[Tensor]
    """For each sample its own phrases, in order, as int64 indices into ``phrases``."""
    num_positives: list[int]
    """For each sample the number of its positive phrases, which come first."""
    own_only: list[bool]
    """For each sample whether only its own phrases are its negatives."""
    not_exhaustive: list[Tensor]
    """For each sample int64 indices, among its own phrases, of those not boxed exhaustively."""

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.phrases):
            raise ValueError(f"{len(self.embeddings)} embeddings for {len(self.phrases)} phrases")

    @classmethod
    def from_samples(
        cls, samples: Sequence[Mapping[str, Any]], encode: Callable[..., Tensor]
    ) -> "TextBatch":
        """Join the phrases of B samples and encode each distinct one once.

        Args:
            samples: each has ``phrases`` (list of str) and ``num_positives`` (int), and optionally
                ``own_phrases_only`` (bool), ``not_exhaustive`` (indices into its phrases) and
                ``phrase_tokens``.
            encode: M phrases -> (M, D). It is also given the tokens of each of them, if all samples
                have them.

        Raises:
            ValueError: ``encode`` does not return one embedding a phrase.
        """
        number: dict[str, int] = {}
        index: list[Tensor] = []
        tokens: list[Any] = []  # of each distinct phrase
        for sample in samples:
            own = [number.setdefault(p, len(number)) for p in sample["phrases"]]
            index.append(torch.tensor(own, dtype=torch.int64))
            if (of_sample := sample.get("phrase_tokens")) is not None:
                for i, m in enumerate(own):
                    if m == len(tokens):  # a phrase that is new has the next number
                        tokens.append(of_sample[:, i])
        phrases = list(number)
        has_tokens = bool(samples) and all("phrase_tokens" in sample for sample in samples)
        return cls(
            phrases=phrases,
            embeddings=encode(phrases, tokens) if has_tokens else encode(phrases),
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

    def part(self, part: slice) -> "TextBatch":
        """A slice of the samples, with the phrases and the embeddings of all."""
        return dataclasses.replace(
            self,
            index=self.index[part],
            num_positives=self.num_positives[part],
            own_only=self.own_only[part],
            not_exhaustive=self.not_exhaustive[part],
        )

    def positives(self, b: int) -> Tensor:
        """The positive phrases of sample ``b``, as int64 indices into ``phrases``."""
        return self.index[b][: self.num_positives[b]]

    def columns_of(self, b: int, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of S that match the N boxes of sample ``b``.

        Args:
            b: index of the sample.
            gt_classes: (N,) int64, for each box an index into the sample's own phrases.

        Returns:
            Two (Q,) int64 tensors: an index into the N boxes, and the column that matches the box.
            A box has one column here, its phrase, so Q is N; with tokens it may have several.
        """
        columns = self.index[b].to(gt_classes.device)[gt_classes]
        return torch.arange(len(columns), device=columns.device), columns

    def negatives_valid(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, M) bool: whether column m is a negative for the unmatched anchors of image b.

        False for phrases that are not boxed exhaustively and, if only a sample's own phrases are
        its negatives, for those of other samples: they may be in the image without a box.
        """
        valid = torch.ones(len(self), len(self.phrases), dtype=torch.bool)
        for b, index in enumerate(self.index):
            if self.own_only[b]:
                valid[b] = False
                valid[b, index] = True
            valid[b, index[self.not_exhaustive[b]]] = False
        return valid.to(device)

    def gather(self) -> "TextBatch":
        """Join the phrases of all processes: M_B distinct ones, in the same order everywhere.

        The samples stay those of this process; only phrases and embeddings are joined. The
        embedding of a phrase that several processes have encoded is that of the first, which
        receives the gradients of all. The conditions of `all_gather_with_grad` hold.
        """
        return self.gather_with([])[0]

    def gather_with(self, words: list[list[int]]) -> tuple["TextBatch", list[list[list[int]]]]:
        """`gather`, and lists of phrases of all processes, in the same exchange of objects.

        Args:
            words: lists of indices into ``phrases``.

        Returns:
            The joined text; and the lists of each process, in the order of ranks, as indices into
            its phrases.
        """
        if comm.get_world_size() == 1:
            return self, [words]
        everyone = comm.all_gather((self.phrases, words))
        number: dict[str, int] = {}
        rows: list[int] = []  # of each distinct phrase: its first position among those of all
        joined, position = [], 0
        renumber = torch.zeros(0, dtype=torch.int64)
        for rank, (phrases, of_process) in enumerate(everyone):
            numbers = [number.setdefault(phrase, len(number)) for phrase in phrases]
            # A phrase that is new has the next number.
            rows += [position + i for i, m in enumerate(numbers) if m >= len(rows)]
            position += len(phrases)
            joined.append([[numbers[m] for m in of_text] for of_text in of_process])
            if rank == comm.get_rank():
                renumber = torch.tensor(numbers, dtype=torch.int64)
        first = torch.tensor(rows, dtype=torch.int64, device=self.embeddings.device)
        text = dataclasses.replace(
            self,
            phrases=list(number),
            embeddings=all_gather_with_grad(self.embeddings)[first],
            index=[renumber[index] for index in self.index],
        )
        return text, joined

    def detach(self) -> "TextBatch":
        """The same text, detached; its embeddings collect gradients for `backward`."""
        return dataclasses.replace(self, embeddings=self.embeddings.detach().requires_grad_())

    def backward(self, detached: "TextBatch") -> None:
        """Backpropagate the gradients that a detached copy has collected."""
        if self.embeddings.requires_grad:
            self.embeddings.backward(detached.embeddings.grad)
