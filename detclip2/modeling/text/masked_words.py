"""Captions with masked words, to be filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.text.token_map import token_map
from detclip2.modeling.text.token_tower import TokenTower


@dataclass
class MaskedWords:
    """The captions of B samples, encoded with all tokens of their masked words masked."""

    text: TokenBatch
    """The captions."""
    tokens_of: list[Tensor]
    """For each caption (S, T) bool, the tokens of each of its S masked words."""
    tokenizer: Any
    """Of the text tower."""

    @classmethod
    def from_samples(cls, samples: Sequence[Mapping[str, Any]], tower: TokenTower) -> "MaskedWords":
        """Mask and encode.

        Args:
            samples: each has ``caption`` and ``masked_spans``, [begin, end) pairs of characters.
            tower: encodes captions.

        Raises:
            UserError: the tower has no mask token.
        """
        tokens = tower.tokenize([sample["caption"] for sample in samples])
        tokens_of = [
            token_map([[span] for span in sample["masked_spans"]], offsets)
            for sample, offsets in zip(samples, tokens["offset_mapping"], strict=True)
        ]
        masked = torch.stack([own.any(dim=0) for own in tokens_of])
        ids = tokens["input_ids"].masked_fill(masked, tower.mask_token)
        states = tower.encode({**tokens, "input_ids": ids})
        text = TokenBatch(states, tokens["attention_mask"].bool(), [], [])
        return cls(text, tokens_of, tower.tokenizer)

    def words(self, tokens: Tensor) -> list[list[str]]:
        """(B, T) int64 tokens -> for each caption the text at each of its masked words.

        It is empty for a word beyond the limit of the text tower.
        """
        return [
            [self.tokenizer.decode(own[of_word].tolist()).strip() for of_word in of_caption]
            for own, of_caption in zip(tokens, self.tokens_of, strict=True)
        ]
