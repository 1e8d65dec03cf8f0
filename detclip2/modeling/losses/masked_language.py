"""Masked language modelling: L_mlm of GLIPv2 (arXiv 2206.05836, sec. 3.2), masked as in BERT."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.layers.collectives import shared_divisor
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.utils.errors import UserError

NOT_MASKED = -100
"""The target of a token that is not to be predicted."""


class MaskedLanguage(nn.Module):
    """Words of captions are masked, and predicted from the fused text, so from the image too.

    The other losses see the same masked caption. Of the tokens that may be masked, a share is
    chosen: 80 % of these become the mask token, 10 % a random one, and 10 % stay (BERT, arXiv
    1810.04805, sec. 3.1). Of sentences all tokens may be masked, of lists of names those of
    positives: nothing tells which other names a list has.

    The output layer is that of BERT's head, and its matrix the word embeddings of the text tower.
    Code for such a loss in GLIP's repository, which no released config uses, has a matrix of its
    own: 23 M more parameters at BERT's size.

    Args:
        width: channels of a token.
        vocabulary_size: word embeddings of the text tower.
        probability: share of the tokens that are chosen.
        positives_only: False: tokens of all names of a list may be masked.
        initial_length: factor of the length of predictions at the start, 1 for the word embeddings
            of a BERT. For embeddings of unit variance, 1 / sqrt(width) gives logits of variance 1.
        weight: of the loss.
    """

    def __init__(
        self,
        width: int = 768,
        vocabulary_size: int = 30_522,
        probability: float = 0.15,
        positives_only: bool = True,
        initial_length: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.probability = probability
        self.positives_only = positives_only
        self.weight = weight
        self.transform = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12)
        )
        nn.init.constant_(self.transform[2].get_parameter("weight"), initial_length)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    def mask(
        self, tokens: Mapping[str, Tensor], positive: Tensor, tower: TokenTower
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """Mask words of B captions, at random.

        Args:
            tokens: of `TokenTower.tokenize`.
            positive: (B, T) bool, all tokens of sentences, those of positive names in lists.
            tower: has the mask token.

        Returns:
            The tokens, with others in ``input_ids``, and (B, T) int64, the tokens to predict,
            `NOT_MASKED` elsewhere. Special tokens are never masked.

        Raises:
            UserError: the tower has no mask token, or another number of word embeddings.
        """
        self._check(tower)
        ids = tokens["input_ids"]
        allowed = tokens["special_tokens_mask"] == 0
        if self.positives_only:
            allowed = allowed & positive
        chosen = allowed & (torch.rand(ids.shape) < self.probability).to(ids.device)
        way = torch.rand(ids.shape).to(ids.device)
        random = torch.randint(len(self.bias), ids.shape).to(ids.device)
        masked = torch.where(way < 0.8, tower.mask_token, torch.where(way < 0.9, random, ids))
        return (
            {**tokens, "input_ids": torch.where(chosen, masked, ids)},
            ids.masked_fill(~chosen, NOT_MASKED),
        )

    def _check(self, tower: TokenTower) -> None:
        here, there = len(self.bias), len(tower.word_embeddings)
        if not tower.mask_token < there == here:
            raise UserError(
                f"model.masked_language.vocabulary_size is {here}, but the text model has {there} "
                f"word embeddings: expected the same number, above the mask token's, "
                f"{tower.mask_token}"
            )

    def logits(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """(..., width) fused states and (V, width) word embeddings -> (..., V)."""
        return F.linear(self.transform(states), embeddings, self.bias)

    def forward(
        self,
        states: Tensor,
        targets: Tensor,
        embeddings: Tensor,
        count: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``loss_mlm``, weighted: the mean cross entropy of the masked tokens of all processes.

        Without a masked token it is 0. The mean over processes of its gradients is that of the
        joint batch.

        Args:
            states: (B, T, width) fused states.
            targets: (B, T), from `mask`.
            embeddings: (V, width) word embeddings of the text tower.
            count: from `count`, if the captions are a part of a batch.
        """
        chosen = targets != NOT_MASKED
        logits = self.logits(states[chosen], embeddings).float()
        total = F.cross_entropy(logits, targets[chosen], reduction="sum")
        return {"loss_mlm": self.weight * total / (self.count(targets) if count is None else count)}

    @staticmethod
    def count(targets: Tensor) -> Tensor:
        """The divisor of the loss: masked tokens of a process, in the mean over all of them."""
        return shared_divisor((targets != NOT_MASKED).sum().float())
