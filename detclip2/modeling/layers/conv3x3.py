"""A 3x3 convolution with a fast path for CPU inference."""

import torch
from torch import Tensor, nn

# On small maps, transforming weights and tiles costs more than the multiplications that it saves:
# with 256 channels 13 x 21 locations are too few and 25 x 42 enough (docs/performance.md).
MIN_CHANNELS, MIN_PLACES = 64, 400


class Conv3x3(nn.Conv2d):
    """A convolution of stride 1 that keeps the size; CPU inference uses Winograd's method.

    Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) computes a tile of 6x6 outputs
    with 64 multiplications a channel pair instead of 324. PyTorch has it in NNPACK, a part of its
    builds for CPUs, but does not choose it for a single image. Outputs differ by about 1e-5 of
    their spread, and scores by less than 1e-5. Training does not use it, even without gradients: a
    repeated forward pass (``detclip2.engine.micro_batch``) must give the same result.
    ``torch.backends.nnpack.flags(enabled=False)`` turns it off.

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
        if not self.training and winograd_pays(x, self.weight):
            return torch._nnpack_spatial_convolution(x, self.weight, self.bias, padding=1)
        return super().forward(x)


def winograd_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether NNPACK can and may compute the convolution, and is faster."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.shape[-2] * x.shape[-1] >= MIN_PLACES
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and torch._C._get_nnpack_enabled()
        and torch.backends.nnpack.is_available()
    )
