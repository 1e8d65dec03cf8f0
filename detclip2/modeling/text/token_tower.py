"""A text model with its tokenizer: the tower of GLIP, and the base of DetCLIPv2's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detclip2.modeling.text.phrase_tokens import join_tokens
from detclip2.modeling.text.prompt_offsets import TokenOffsets
from detclip2.modeling.text.token_map import SEPARATOR, clean_name
from detclip2.utils.errors import UserError


class TokenTower(nn.Module):
    """A text model of transformers with its tokenizer: texts to the states of their tokens.

    Args:
        model: a transformers text model whose output has ``last_hidden_state``.
        tokenizer: its tokenizer.
        max_length: maximum tokens of a text, start and end included.
        identity: name of the encoder, stored with embeddings in files.
        prompt_names: names whose tokens have a learned offset, see `TokenOffsets`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        max_length: int = 256,
        identity: str = "",
        prompt_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        config: Any = model.config
        self.width: int = config.hidden_size
        self.identity = identity or f"{config.model_type}-{self.width}"
        self.token_offsets: TokenOffsets | None = None
        if prompt_names:
            self.add_prompt(prompt_names)

    def add_prompt(self, names: Sequence[str]) -> None:
        """Give names a learned offset of their text, 0 at first."""
        tokens = self._own_tokens([clean_name(name) for name in names])
        self.token_offsets = TokenOffsets(tokens, self.width)

    def tokenize(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """M texts, at least one -> their tokens, on the tower's device.

        Returns:
            ``input_ids``, ``attention_mask`` and ``special_tokens_mask``, each (M, T) int64, and
            ``offset_mapping`` (M, T, 2), the characters [begin, end) of each token, (0, 0) for
            special ones (only from a fast tokenizer); padded on the right to the longest text and
            cut at ``max_length`` tokens.
        """
        return self._tokenize(texts).to(self.device)

    def _tokenize(self, texts: Sequence[str]) -> Any:
        """The same on the CPU."""
        return self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
            return_special_tokens_mask=True,
            return_offsets_mapping=getattr(self.tokenizer, "is_fast", True),
        )

    @property
    def device(self) -> torch.device:
        """Where the text model is."""
        return next(self.model.parameters()).device

    def joined(self, tokens: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
        """M tokenised texts, at least one -> what `tokenize` gives, on the CPU, without offsets.

        Args:
            tokens: M arrays (3, T), see `detclip2.modeling.text.phrase_tokens.join_tokens`.
        """
        joined = torch.from_numpy(join_tokens(tokens, self.tokenizer.pad_token_id))
        keys = ("input_ids", "attention_mask", "special_tokens_mask")
        return dict(zip(keys, joined.to(torch.int64), strict=True))

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without start and end, not cut."""
        return [len(own) for own in self._own_tokens(texts)]

    def _own_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    @property
    def max_own_tokens(self) -> int:
        """The tokens that a text may have without start and end."""
        return self.max_length - self.tokenizer.num_special_tokens_to_add()

    @property
    def unknown_token(self) -> int:
        """The token of what the tokenizer does not know; -1 without one."""
        token = self.tokenizer.unk_token_id
        return -1 if token is None else token

    @property
    def mask_token(self) -> int:
        """The token of a masked word.

        Raises:
            UserError: the tokenizer has none.
        """
        if self.tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, which masked language modelling needs: give it "
                "one, as model.text_tower.tokenizer.mask_token=<mask>, and the text model one word "
                "more (vocab_size)"
            )
        return self.tokenizer.mask_token_id

    @property
    def word_embeddings(self) -> Tensor:
        """(V, width), those that the text model starts from."""
        model: Any = self.model
        return model.get_input_embeddings().weight

    def encode(self, tokens: Mapping[str, Tensor], is_causal: bool = False) -> Tensor:
        """Tokens from `tokenize` -> (M, T, width) states of the text model.

        Args:
            tokens: ``input_ids``, ``attention_mask`` and ``special_tokens_mask``.
            is_causal: whether a token attends only to itself and those before it.
        """
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if is_causal:
            mask = _causal_mask(mask, self.word_embeddings.dtype)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        if self.token_offsets is None:
            return states
        [separator] = self._own_tokens([SEPARATOR.strip()])
        boundary = tokens["special_tokens_mask"].bool()
        boundary = boundary | torch.isin(ids, torch.tensor(separator, device=ids.device))
        return self.token_offsets(ids, boundary, states)


def _causal_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, T), 0 for padding -> (M, 1, T, T), added to logits of attention: 0 or the lowest."""
    allowed = mask.bool()[:, None, None] & mask.new_ones(mask.shape[1:] * 2).tril().bool()
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
