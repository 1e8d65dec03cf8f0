"""DropBlock: dropout of square blocks of a feature map (arXiv 1810.12890)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropBlock(nn.Module):
    """In training, sets blocks of a map to zero, in all channels, and scales up the rest.

    GLIP applies it with its defaults to the pyramid's merged maps. Unlike the paper, as there, a
    block may be centered at any location, so that a part of it lies outside.

    Args:
        probability: of a location to be dropped, about.
        block_size: side of a block, odd.
    """

    def __init__(self, probability: float = 0.3, block_size: int = 3) -> None:
        super().__init__()
        self.probability = probability
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.probability == 0:
            return x
        rate = self.probability / self.block_size**2
        centers = (torch.rand_like(x[:, :1], dtype=torch.float32) < rate).float()
        dropped = F.max_pool2d(centers, self.block_size, stride=1, padding=self.block_size // 2)
        kept = 1 - dropped
        return x * (kept / kept.mean().clamp(min=1e-6)).to(x.dtype)
