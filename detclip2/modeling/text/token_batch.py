"""The captions of a batch with the states of their tokens."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detclip2.modeling.text.text_tower import TokenTower
from detclip2.modeling.text.token_map import (
    Caption,
    caption_among,
    caption_of_names,
    clean_name,
    mean_weights,
    names_within,
    token_map,
)


@dataclass
class TokenBatch:
    """The captions of B samples: what `TextBatch` is to phrases that are encoded apart.

    A column of S is a token of the sample's own caption.
    """

    embeddings: Tensor
    """(B, T, width) states of the tokens, before fusion."""
    mask: Tensor
    """(B, T) bool, False for padding. Start, end and separators are tokens like others."""
    tokens_of: list[Tensor]
    """For each sample (M, T) bool: the tokens of each of its M phrases."""
    not_exhaustive: list[Tensor]
    """For each sample int64 indices, among its own phrases, of those not boxed exhaustively."""

    @classmethod
    def from_samples(
        cls, samples: Sequence[Mapping[str, Any]], tower: TokenTower, shuffle: bool = False
    ) -> "TokenBatch":
        """The caption of each of B samples, encoded.

        The caption is that of the sample with the spans of its phrases, if it has both, and its
        ``other_captions`` around it; else its phrases joined. Of either as many as fit, negatives
        dropped first.

        Args:
            samples: each has ``phrases`` and ``num_positives``, and optionally ``caption`` with
                ``phrase_spans``, ``other_captions``, ``phrase_order`` and ``not_exhaustive``.
            tower: encodes captions.
            shuffle: whether joined texts are in random order, unless the sample has a
                ``phrase_order``.
        """
        captions = [_caption_of(sample, tower, shuffle) for sample in samples]
        tokens = tower.tokenize([caption.text for caption in captions])
        offsets = tokens["offset_mapping"]
        return cls(
            embeddings=tower.encode(tokens),
            mask=tokens["attention_mask"].bool(),
            tokens_of=[
                token_map(caption.spans, of_caption)
                for caption, of_caption in zip(captions, offsets, strict=True)
            ],
            not_exhaustive=[
                torch.as_tensor(sample.get("not_exhaustive", ()), dtype=torch.int64)
                for sample in samples
            ],
        )

    def __len__(self) -> int:
        """B, the number of samples."""
        return len(self.embeddings)

    def part(self, part: slice) -> "TokenBatch":
        """A slice of the samples."""
        return TokenBatch(
            self.embeddings[part], self.mask[part], self.tokens_of[part], self.not_exhaustive[part]
        )

    def columns_of(self, b: int, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """The columns of S that match the N boxes of sample ``b``: the tokens of their phrases.

        Args:
            b: index of the sample.
            gt_classes: (N,) int64, for each box an index into the sample's own phrases.

        Returns:
            Two (Q,) int64 tensors: an index into the N boxes, and a column that matches the box. A
            phrase that the caption does not hold, or only beyond the limit, has no columns.
        """
        box, column = self.tokens_of[b][gt_classes].nonzero(as_tuple=True)
        return box, column

    def negatives_valid(self, device: torch.device | str = "cpu") -> Tensor:
        """(B, T) bool: whether a token is a negative for the unmatched anchors of image b.

        False for padding, and for tokens of phrases that are not boxed exhaustively.
        """
        valid = self.mask.clone()
        for row, tokens, phrases in zip(valid, self.tokens_of, self.not_exhaustive, strict=True):
            row &= ~tokens[phrases.to(tokens.device)].any(dim=0)
        return valid.to(device)

    def phrase_weights(self) -> Tensor:
        """(B, T, M): `mean_weights` for all M phrases of the batch; 0 for those of other images."""
        columns = [mean_weights(tokens) for tokens in self.tokens_of]
        counts = [of_image.shape[1] for of_image in columns]
        weights = self.embeddings.new_zeros(*self.mask.shape, sum(counts), dtype=torch.float32)
        for of_all, own, part in zip(weights, columns, _slices(counts), strict=True):
            of_all[:, part] = own
        return weights

    def detach(self) -> "TokenBatch":
        """The same text, detached; its embeddings collect gradients for `backward`."""
        return dataclasses.replace(self, embeddings=self.embeddings.detach().requires_grad_())

    def backward(self, detached: "TokenBatch") -> None:
        """Backpropagate the gradients that a detached copy has collected."""
        if self.embeddings.requires_grad:
            self.embeddings.backward(detached.embeddings.grad)


def _slices(counts: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(counts))
    return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


def _caption_of(sample: Mapping[str, Any], tower: TokenTower, shuffle: bool) -> Caption:
    phrases = sample["phrases"]
    if "caption" in sample and "phrase_spans" in sample:
        # Negatives are not in the caption.
        spans = [[(begin, end) for begin, end in pairs] for pairs in sample["phrase_spans"]]
        own = Caption(sample["caption"], spans + [[]] * (len(phrases) - len(spans)))
        if not (others := sample.get("other_captions")):
            return own
        lengths = tower.num_tokens([own.text, *others])
        order = _order(len(lengths), shuffle)
        return caption_among(own, others, lengths, tower.max_own_tokens, order)
    names = [clean_name(phrase) for phrase in phrases]
    lengths = tower.num_tokens(names)
    given = sample.get("phrase_order")
    order = _order(len(names), shuffle) if given is None else given.tolist()
    kept = names_within(lengths, sample["num_positives"], tower.max_own_tokens, order)
    return caption_of_names(names, kept)


def _order(number: int, shuffle: bool) -> list[int]:
    return torch.randperm(number).tolist() if shuffle else list(range(number))
