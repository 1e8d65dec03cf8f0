"""Depthwise convolutions whose backward pass is fast on CPUs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK = 3
"""Side of the kernels whose gradient oneDNN computes fast."""


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """A depthwise convolution on a CPU, whose gradients oneDNN computes by its fast kernels.

    oneDNN has fast kernels for the gradient of the weight of 3x3 kernels, and for that of the input
    where the stride is 1 or the numbers are float32. For all else it has reference loops, which are
    10 to 40 times slower. So the gradient of a 5x5 weight is computed in 3x3 blocks, which overlap,
    and that of the input of a strided convolution in float32. Results differ from PyTorch's by the
    order of sums, and by the rounding to bfloat16 under autocast.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, h, w), h and w at least `BLOCK`.
        bias: (C,), or None.
        stride: of rows and columns.
        padding: of rows and columns, with zeros.

    Returns:
        (B, C, H', W').
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Depthwise.apply(x, weight, bias, stride, padding)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _input_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    if max(stride) > 1:
        wide = torch.promote_types(grad.dtype, torch.float32)
        grad, weight = grad.to(wide), weight.to(wide)
    found = _convolution_backward(grad, x.to(grad.dtype), weight, stride, padding, (True, False))
    return found[0].to(x.dtype)


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The sum over locations of the output's gradient times the input at each tap."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    found = torch.empty_like(weight)
    # First to last pixel that a tap of a block reads.
    height, width = ((n - 1) * s + BLOCK for n, s in zip(grad.shape[-2:], stride, strict=True))
    block = weight[..., :BLOCK, :BLOCK]
    for i in _starts(weight.shape[-2]):
        for j in _starts(weight.shape[-1]):
            read = x[..., i : i + height, j : j + width]
            read = read.contiguous(memory_format=torch.channels_last)
            of_block = _convolution_backward(grad, read, block, stride, (0, 0), (False, True))[1]
            found[..., i : i + BLOCK, j : j + BLOCK] = of_block
    return found


def _starts(taps: int) -> Iterator[int]:
    """The first taps of blocks that cover a kernel; the last two may overlap."""
    yield from range(0, taps - BLOCK, BLOCK)
    yield taps - BLOCK


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input and weight, those that are wanted."""
    return torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight)),
        (*wanted, False),
    )


def gains(conv: nn.Conv2d) -> bool:
    """Whether `depthwise_conv` computes the gradients of a convolution faster than PyTorch."""
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    is_plain = conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    covered = min(conv.kernel_size) >= BLOCK and not isinstance(conv.padding, str)
    slow = max(conv.kernel_size) > BLOCK or max(conv.stride) > 1
    return is_depthwise and is_plain and covered and slow
