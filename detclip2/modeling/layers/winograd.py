"""3x3 convolutions by Winograd's minimal filtering, F(6x6, 3x3): arXiv 1509.09308, sec. 4."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

TILE, TAPS = 6, 3
SIDE = TILE + TAPS - 1
"""Of the square of inputs that a tile of outputs reads."""
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
"""Where the polynomials of the method are evaluated, beside infinity: few bits, small powers."""
TILES_AT_ONCE = 128
"""About so many, so that what is between input and output stays in the cache."""


def winograd_conv(maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """3x3 convolutions of several maps with one kernel, which is transformed once; padding 1.

    A tile of 6x6 outputs takes 64 multiplications a pair of channels instead of 324. Outputs differ
    from plain sums by about 1e-5 of their spread.

    Args:
        maps: (B, C, H, W) float32 each; fastest in the memory format channels_last.
        weight: (O, C, 3, 3).
        bias: (O,), or None.

    Returns:
        (B, O, H, W) each, in the memory format channels_last.
    """
    _, _, of_kernel = transforms()
    kernel = torch.mm(of_kernel, weight.permute(2, 3, 1, 0).reshape(TAPS**2, -1))
    kernel = kernel.view(SIDE**2, weight.shape[1], weight.shape[0])
    return [_convolve(x, kernel, bias) for x in maps]


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A map with a (64, C, O) transformed kernel."""
    of_input, of_output, _ = transforms()
    batch, channels, height, width = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = x.new_empty(batch, rows * TILE + TAPS - 1, columns * TILE + TAPS - 1, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    for border in (slice(1), slice(height + 1, None)):
        padded[:, border] = 0
    for border in (slice(1), slice(width + 1, None)):
        padded[:, :, border] = 0
    # (8, 8, B, rows, columns, C)
    tiles = padded.unfold(1, SIDE, TILE).unfold(2, SIDE, TILE).permute(4, 5, 0, 1, 2, 3)
    out = x.new_empty(batch, rows, TILE, columns, TILE, kernel.shape[2])
    size = max(1, TILES_AT_ONCE // columns)
    for image in range(batch):
        for first in range(0, rows, size):
            part = slice(first, first + size)
            inputs = tiles[:, :, image, part].reshape(SIDE**2, -1)
            products = torch.bmm((of_input @ inputs).view(SIDE**2, -1, channels), kernel)
            values = of_output @ products.flatten(1)
            values = values.view(TILE, TILE, -1, columns, kernel.shape[2])
            out[image, part] = values.permute(2, 0, 3, 1, 4)
    if bias is not None:
        out += bias
    out = out.view(batch, rows * TILE, columns * TILE, -1)[:, :height, :width]
    return out.permute(0, 3, 1, 2)


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of inputs (64, 64), outputs (36, 64) and kernels (64, 9).

    The product of two polynomials follows from their values at the points. A convolution is its
    transpose, so that the inverse of the points' Vandermonde matrix transforms the inputs.
    """
    exponents = torch.arange(SIDE, device="cpu")
    powers = torch.tensor(POINTS, dtype=torch.float64, device="cpu")[:, None] ** exponents
    at_infinity = torch.eye(SIDE, dtype=torch.float64, device="cpu")[-1:]
    values = torch.cat([powers, at_infinity])  # (8, 8)
    of_output = torch.cat([powers[:, :TILE], at_infinity[:, -TILE:]])
    of_kernel = torch.cat([powers[:, :TAPS], at_infinity[:, -TAPS:]])
    matrices = (values.inverse().T, of_output.T, of_kernel)
    both_axes = [torch.kron(matrix, matrix).float() for matrix in matrices]
    return both_axes[0], both_axes[1], both_axes[2]
