"""Modulated deformable convolution with fast paths for CPUs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops.deform_conv import deform_conv2d

# Locations whose sampled taps are multiplied at once: 512 x 9 x 256 numbers stay in the cache.
CHUNK = 512


def deformable_conv(
    x: Tensor,
    offsets: Tensor,
    mask: Tensor,
    weight: Tensor,
    training: bool = False,
    *,
    bias: Tensor | None = None,
    stride: int = 1,
) -> Tensor:
    """A 3x3 convolution (padding 1) that samples at shifted locations.

    On a GPU this is torchvision's operator. On a CPU that operator samples one value at a time, and
    its backward pass took two thirds of a training step. Training on a CPU uses ``grid_sample`` and
    one matrix product, which is much faster; inference gathers whole rows of channels.

    Args:
        x: (B, C, H, W).
        offsets: (B, 18, h, w) px, (dy, dx) for each of the 9 taps, row by row; h is H / stride,
            rounded up, and w likewise.
        mask: (B, 9, h, w) factor of each tap.
        weight: (O, C, 3, 3).
        training: whether the result must equal that of a pass with gradients, to the last bit.
        bias: (O,), or None.
        stride: distance of locations, px of x.

    Returns:
        (B, O, h, w).
    """
    if x.device.type != "cpu":
        return deform_conv2d(x, offsets, weight, bias, stride=stride, padding=1, mask=mask)
    if not (training or torch.is_grad_enabled() or torch.compiler.is_compiling()):
        out = conv_of_rows(x, offsets, mask, weight, stride)
    else:
        batch_size, _, height, width = offsets.shape
        taps = sample_taps(x, offsets, stride) * mask.reshape(batch_size, 1, 9, height * width)
        out = (weight.flatten(1) @ taps.flatten(1, 2)).view(batch_size, -1, height, width)
    return out if bias is None else out + bias[:, None, None]


def tap_positions(offsets: Tensor, stride: int = 1) -> tuple[Tensor, Tensor]:
    """(B, 9, h, w) rows and columns, px, at which the taps of every location sample."""
    batch_size, _, height, width = offsets.shape
    offsets = offsets.reshape(batch_size, 9, 2, height, width)
    rows = stride * torch.arange(height, device=offsets.device, dtype=offsets.dtype)[:, None]
    columns = stride * torch.arange(width, device=offsets.device, dtype=offsets.dtype)
    steps = torch.arange(-1, 2, device=offsets.device, dtype=offsets.dtype)
    row_steps, column_steps = torch.cartesian_prod(steps, steps).T[..., None, None]  # (9, 1, 1)
    return offsets[:, :, 0] + rows + row_steps, offsets[:, :, 1] + columns + column_steps


def sample_taps(x: Tensor, offsets: Tensor, stride: int = 1) -> Tensor:
    """(B, C, 9, h * w): bilinear values of ``x`` at the 9 taps of every location, 0 outside."""
    batch_size, channels, height, width = x.shape
    rows, columns = tap_positions(offsets, stride)
    # grid_sample counts from -1 to 1 over the pixels' outer edges.
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(x, grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
    return sampled.view(batch_size, channels, 9, -1)


def conv_of_rows(
    x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, stride: int = 1
) -> Tensor:
    """`deformable_conv` with each tap as a weighted sum of 4 rows of C channels.

    An embedding bag computes this sum and reads memory in order; its weights include the mask.
    """
    batch_size, channels = x.shape[:2]
    height, width = offsets.shape[-2:]
    table = x.permute(0, 2, 3, 1).reshape(batch_size, -1, channels)  # (B, HW, C)
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (9C, O)
    corners, factors = tap_corners(offsets, mask, x.shape[-2:], stride)
    out = x.new_empty(batch_size, height * width, len(weight))
    for image in range(batch_size):
        for start in range(0, height * width, CHUNK):
            chunk = slice(start, start + CHUNK)
            taps = F.embedding_bag(
                corners[image, chunk].flatten(0, 1),
                table[image],
                mode="sum",
                per_sample_weights=factors[image, chunk].flatten(0, 1),
            )
            out[image, chunk] = taps.view(-1, 9 * channels) @ matrix
    return out.transpose(1, 2).reshape(batch_size, -1, height, width)


def tap_corners(
    offsets: Tensor, mask: Tensor, size: Sequence[int], stride: int = 1
) -> tuple[Tensor, Tensor]:
    """Indices in [0, HW) of the 4 pixels around each tap, and their factors: (B, hw, 9, 4) each.

    Args:
        offsets: as in `deformable_conv`.
        mask: as there.
        size: H and W.
        stride: as there.
    """
    height, width = size
    along = []  # for rows and columns: the two nearest and their weights, 0 outside
    for position, length in zip(tap_positions(offsets, stride), (height, width), strict=True):
        before = position.floor()
        both = torch.stack([before, before + 1], dim=-1)  # (B, 9, H, W, 2)
        factor = 1 - (both - position[..., None]).abs()
        inside = (both >= 0) & (both < length)  # False if an offset is not finite
        index = both.nan_to_num(0).clamp(0, length - 1).int()
        along.append((index, torch.where(inside, factor, 0)))
    (rows, of_row), (columns, of_column) = along
    locations = rows[..., :, None] * width + columns[..., None, :]  # (B, 9, H, W, 2, 2)
    factors = of_row[..., :, None] * of_column[..., None, :] * mask[..., None, None]
    return _by_location(locations), _by_location(factors)


def _by_location(corners: Tensor) -> Tensor:
    """(B, 9, h, w, 2, 2) -> (B, hw, 9, 4)."""
    return corners.flatten(4).flatten(2, 3).transpose(1, 2).contiguous()
