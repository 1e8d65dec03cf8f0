"""Swin's block as its authors have it."""

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.nn import functional as F


class PadBeforeRoll(SwinTransformerBlock):
    """A block of Swin that pads features to whole windows, then shifts them, as Swin's authors."""

    def _attn(self, x: Tensor) -> Tensor:
        """(B, H, W, C), after the norm -> (B, H, W, C)."""
        height, width = x.shape[1:3]
        missing = (-height % self.window_size[0], -width % self.window_size[1])
        padded = F.pad(x, (0, 0, 0, missing[1], 0, missing[0]))
        return super()._attn(padded)[:, :height, :width]  # which finds nothing to pad
