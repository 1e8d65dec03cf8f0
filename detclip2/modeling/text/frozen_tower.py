"""A text tower that does not learn, and so encodes each phrase of a training once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detclip2.modeling.text.phrase_tokens import not_known
from detclip2.modeling.text.text_tower import TextTower, parts_of


class FrozenTextTower(TextTower):
    """A `TextTower` without gradients; it keeps the embeddings of the phrases of training.

    Not in the paper, whose text tower learns at a tenth of the rate (sec. 4.1): with few images, a
    tower that learns forgets the names that they do not show, and costs as much as the backbone.
    The embeddings that it keeps are discarded when weights are loaded or moved to a device.

    Args:
        *args: of `TextTower`.
        **kwargs: of `TextTower`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)
        if self.phrase_offsets is not None:
            self.phrase_offsets.requires_grad_()
        text_model: Any = self.model
        if getattr(text_model, "pooler", None) is not None:
            text_model.pooler = None  # BERT's: nothing reads it, and files need not have it
        self._known: dict[str, Tensor] = {}

    def forward(self, phrases: Sequence[str], tokens: Sequence[np.ndarray] | None = None) -> Tensor:
        """M phrases -> (M, D) embeddings, not normalised; see `TextTower.forward`.

        Learned offsets alone have a gradient.
        """
        if not phrases:
            return self._embed_all(phrases)
        fresh = not_known(phrases, self._known)
        if fresh:
            texts = [phrases[m] for m in fresh]
            own = None if tokens is None else [tokens[m] for m in fresh]
            embeddings = self._embed_all(texts, own)
            self._known.update(zip(texts, embeddings, strict=True))
        return self.with_offsets(phrases, torch.stack([self._known[p] for p in phrases]))

    @torch.no_grad()
    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings, in full precision; they are not kept."""
        return self.with_offsets(phrases, self._embed_all(phrases))

    @torch.no_grad()
    def _embed_all(
        self, phrases: Sequence[str], tokens: Sequence[np.ndarray] | None = None
    ) -> Tensor:
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return torch.cat(
                [
                    self.embed(phrases[part], None if tokens is None else tokens[part])
                    for part in parts_of(len(phrases))
                ]
            )

    def train(self, mode: bool = True) -> "FrozenTextTower":
        """Stay in evaluation mode, without dropout."""
        del mode
        return super().train(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> "FrozenTextTower":
        self._known.clear()
        return super()._apply(*args, **kwargs)
