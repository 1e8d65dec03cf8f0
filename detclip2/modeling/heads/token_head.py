"""Token logits: the similarity of regions and tokens (GLIP, eq. 3)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.heads.fusion import LARGEST


class TokenHead(nn.Module):
    """S = <region, W (token / 2) + b> / exp(scale) + <token, text_bias> + bias, as logits.

    Tokens have unit length, regions any length.

    Args:
        text_width: channels of a token.
        embed_dim: D, channels of a region.
        prior: initial probability that a random region matches a random token; None: there is no
            bias but that of a token.
        initial_scale: what S is multiplied by at first, 1 / exp(scale).
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        text_width: int = 768,
        embed_dim: int = 256,
        prior: float | None = 0.01,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(text_width, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(initial_scale)))
        self.text_bias = nn.Parameter(torch.zeros(text_width))
        self.bias = None
        if prior is not None:
            self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, regions: Tensor, tokens: Tensor) -> Tensor:
        """(B, K, D) regions and (B, T, text_width) tokens -> (B, K, T) logits."""
        columns, bias = self.columns(tokens)
        return torch.baddbmm(bias[:, None], regions, columns.mT).clamp(-LARGEST, LARGEST)

    def columns(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What regions are multiplied by, (B, T, D), and what is added, (B, T)."""
        tokens = F.normalize(tokens, dim=-1)
        bias = tokens @ self.text_bias
        if self.bias is not None:
            bias = bias + self.bias
        return self.projection(tokens / 2) / self.log_scale.exp(), bias
