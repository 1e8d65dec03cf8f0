"""Captions of images, written token by token (GLIPv2, arXiv 2206.05836)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.losses.masked_language import NOT_MASKED
from detclip2.modeling.text.generation import NextToken, write
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.utils.errors import UserError


class CaptionHead(nn.Module):
    """Learns to continue captions, and writes them by beam search.

    A token attends to those before it, in the text tower as in the head, and to the image; the
    image does not attend to the caption. The output layer is that of masked language modelling, so
    this head has no weights. The paper does not say how it searches.

    Args:
        beam_size: texts that the search keeps; 1 is greedy.
        max_tokens: the most tokens of a caption that is written.
        length_penalty: see `detclip2.modeling.text.generation.write`.
        weight: of the loss.

    Raises:
        UserError: ``beam_size`` or ``max_tokens`` is below 1.
    """

    def __init__(
        self,
        beam_size: int = 3,
        max_tokens: int = 40,
        length_penalty: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if min(beam_size, max_tokens) < 1:
            raise UserError("model.caption_head: beam_size and max_tokens must be at least 1")
        self.beam_size = beam_size
        self.max_tokens = max_tokens
        self.length_penalty = length_penalty
        self.weight = weight

    def losses(
        self,
        word_logits: Callable[[Tensor], Tensor],
        tokens: Tensor,
        targets: Tensor,
        count: Tensor,
    ) -> dict[str, Tensor]:
        """``loss_caption``, weighted: the mean cross entropy of next tokens of all processes.

        Args:
            word_logits: (P, text_width) fused states -> (P, V).
            tokens: (B, T, text_width) fused tokens.
            targets: (B, T) int64, the token after each, or `NOT_MASKED`.
            count: the divisor, `MaskedLanguage.count`.
        """
        chosen = targets != NOT_MASKED
        logits = word_logits(tokens[chosen]).float()
        total = F.cross_entropy(logits, targets[chosen], reduction="sum")
        return {"loss_caption": self.weight * total / count}

    def write(
        self, next_token: NextToken, tower: TokenTower, beam_size: int | None = None
    ) -> dict[str, Any]:
        """A caption.

        Args:
            next_token: see `detclip2.modeling.text.generation`.
            tower: its tokenizer has the start and the end.
            beam_size: None: that of this head.

        Returns:
            ``caption``, a text, ``log_probability``, and ``is_complete``: False if the caption was
            cut at ``max_tokens``, or where the text model's positions end.
        """
        start, end = tower.tokenize([""])["input_ids"][0].tolist()
        never = [token for token in tower.tokenizer.all_special_ids if token != end]

        def next_word(texts: Tensor) -> Tensor:
            return next_token(texts).index_fill(1, texts.new_tensor(never), -torch.inf)

        written = write(
            next_word,
            start,
            end,
            min(self.max_tokens, tower.max_own_tokens),
            self.beam_size if beam_size is None else beam_size,
            self.length_penalty,
            next(tower.parameters()).device,
        )
        return {
            "caption": tower.tokenizer.decode(written.tokens).strip(),
            "log_probability": written.log_probability,
            "is_complete": written.is_complete,
        }
