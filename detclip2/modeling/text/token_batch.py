"""The captions of a batch with the states of their tokens."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from detclip2.modeling.losses.masked_language import NOT_MASKED
from detclip2.modeling.text.token_map import (
    Caption,
    caption_among,
    caption_of_names,
    clean_name,
    mean_weights,
    names_within,
    token_map,
)
from detclip2.modeling.text.token_tower import TokenTower

Masking: TypeAlias = Callable[
    [Mapping[str, Tensor], Tensor, TokenTower], tuple[Mapping[str, Tensor], Tensor]
]
"""`MaskedLanguage.mask`."""


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
    names: list[list[str]] = field(default_factory=list)
    """For each sample its M phrases, in lower case, if its caption is a list of them; else none."""
    targets: Tensor | None = None
    """(B, T) int64, the tokens to predict: those that are masked (see `MaskedLanguage`), or, in a
    text to write, the one after each; `NOT_MASKED` elsewhere. None if there are none."""
    is_causal: bool = False
    """Whether a token depends only on those before it: the texts are to be written."""

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[Mapping[str, Any]],
        tower: TokenTower,
        shuffle: bool = False,
        masking: Masking | None = None,
    ) -> "TokenBatch":
        """The text of each of B samples, encoded.

        For "vqa" it is the ``question`` of a sample, for "captioning" its ``target_text``, else a
        caption: that of the sample with the spans of its phrases, if it has both, and its
        ``other_captions`` and negative phrases around it; else its phrases joined. Of either as
        many as fit, negatives dropped first. A text that is too long is cut.

        Args:
            samples: each has ``phrases`` and ``num_positives``, or the text of its supervision;
                optionally ``caption`` with
                ``phrase_spans``, ``other_captions``, ``phrase_order`` and ``not_exhaustive``.
            tower: encodes captions.
            shuffle: whether joined texts are in random order, unless the sample has a
                ``phrase_order``.
            masking: masks tokens of the captions, see `MaskedLanguage.mask`.
        """
        captions = [_caption_of(sample, tower, shuffle) for sample in samples]
        tokens = tower.tokenize([caption.text for caption in captions])
        tokens_of = [
            token_map(caption.spans, offsets)
            for caption, offsets in zip(captions, tokens["offset_mapping"], strict=True)
        ]
        targets = None
        is_causal = bool(samples) and samples[0].get("supervision") == "captioning"
        if is_causal:
            targets = next_tokens(tokens, tower.max_length)
        elif masking is not None:
            positive = [
                own.new_ones(1, own.shape[1])
                if is_sentence(sample)
                else own[: sample["num_positives"]]
                for sample, own in zip(samples, tokens_of, strict=True)
            ]
            tokens, targets = masking(tokens, torch.stack([p.any(dim=0) for p in positive]), tower)
        return cls(
            embeddings=tower.encode(tokens, is_causal),
            mask=tokens["attention_mask"].bool(),
            tokens_of=tokens_of,
            not_exhaustive=[
                torch.as_tensor(sample.get("not_exhaustive", ()), dtype=torch.int64)
                for sample in samples
            ],
            names=[
                []
                if is_sentence(sample)
                else [clean_name(p).casefold() for p in sample.get("phrases", ())]
                for sample in samples
            ],
            targets=targets,
            is_causal=is_causal,
        )

    def __len__(self) -> int:
        """B, the number of samples."""
        return len(self.embeddings)

    def part(self, part: slice) -> "TokenBatch":
        """A slice of the samples."""
        return TokenBatch(
            self.embeddings[part],
            self.mask[part],
            self.tokens_of[part],
            self.not_exhaustive[part],
            self.names[part],
            None if self.targets is None else self.targets[part],
            self.is_causal,
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


def is_sentence(sample: Mapping[str, Any]) -> bool:
    """Whether the caption of a sample is its own, and not the list of its phrases."""
    return "caption" in sample and "phrase_spans" in sample


def next_tokens(tokens: Mapping[str, Tensor], limit: int) -> Tensor:
    """(M, T) int64: the token after each of M texts, `NOT_MASKED` after the last.

    A text that fills the limit may be cut there, so its end is no target.

    Args:
        tokens: of `TokenTower.tokenize`.
        limit: tokens that the text tower reads.
    """
    mask = tokens["attention_mask"].bool()
    is_target = mask.roll(-1, dims=1)
    is_target[:, -1] = False
    is_target[:, limit - 2 : limit - 1] &= mask.sum(dim=1, keepdim=True) < limit
    return tokens["input_ids"].roll(-1, dims=1).masked_fill(~is_target, NOT_MASKED)


_TEXT_OF = {"vqa": "question", "captioning": "target_text"}
"""Supervision -> the key of its text."""


def _caption_of(sample: Mapping[str, Any], tower: TokenTower, shuffle: bool) -> Caption:
    if key := _TEXT_OF.get(sample.get("supervision", "")):
        return Caption(sample[key], [])
    phrases = sample["phrases"]
    if is_sentence(sample):
        spans = [[(begin, end) for begin, end in pairs] for pairs in sample["phrase_spans"]]
        own = Caption(sample["caption"], spans + [[]] * (len(phrases) - len(spans)))
        negatives = [clean_name(phrase) for phrase in phrases[sample["num_positives"] :]]
        others = [*sample.get("other_captions", ()), *negatives]
        if not others:
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
