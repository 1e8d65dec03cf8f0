"""A 3x3 convolution with a fast path for CPU inference."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detclip2.modeling.layers.fast_path import is_cpu_inference
from detclip2.modeling.layers.winograd import winograd_conv

# On small maps, transforming weights and tiles costs more than the multiplications that it saves:
# with 256 channels 13 x 21 locations are too few and 25 x 42 enough (docs/performance.md).
MIN_CHANNELS, MIN_PLACES = 64, 400


class Conv3x3(nn.Conv2d):
    """A convolution of stride 1 that keeps the size; CPU inference uses Winograd's method.

    Processors with AVX-512 use ours (`winograd_conv`), as the one of PyTorch, in NNPACK, has
    narrower instructions. Others use NNPACK's, which PyTorch does not choose for a single image by
    itself. Outputs differ by about 1e-5 of their spread, and scores by less than 1e-5.
    ``torch.backends.nnpack.flags(enabled=False)`` turns both off.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether to add a learnable bias.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)

    @classmethod
    def like(cls, conv: nn.Conv2d) -> "Conv3x3":
        """A Conv3x3 that shares the parameters of ``conv``."""
        with torch.device("meta"):  # uses no memory or random numbers: these are replaced
            own = cls(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
        own.weight, own.bias = conv.weight, conv.bias
        return own

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        if not self._winograd_pays([x]):
            return super().forward(x)
        if has_wide_vectors():
            return winograd_conv([x], self.weight, self.bias)[0]
        return torch._nnpack_spatial_convolution(x, self.weight, self.bias, padding=1)

    def over_levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """`forward` for each of several maps; where ours is used, it transforms the kernel once."""
        if self._winograd_pays(maps) and has_wide_vectors():
            return winograd_conv(maps, self.weight, self.bias)
        return [self(x) for x in maps]

    def _winograd_pays(self, maps: Sequence[Tensor]) -> bool:
        """Whether Winograd's method can and may compute the convolution, and is faster."""
        return (
            all(is_cpu_inference(self, x) for x in maps)
            and self.weight.dtype == torch.float32
            and sum(x.shape[-2] * x.shape[-1] for x in maps) >= MIN_PLACES
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS
            and torch._C._get_nnpack_enabled()
            and torch.backends.nnpack.is_available()
        )


def has_wide_vectors() -> bool:
    """Whether the processor multiplies 16 numbers at once."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
