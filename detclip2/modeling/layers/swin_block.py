"""Swin's block: in inference on a CPU in parts that stay in the cache, with the same weights."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.nn import functional as F

from detclip2.modeling.layers.fast_path import is_cpu_inference

NUMBERS_AT_ONCE = 2**21
"""Maximum numbers of queries, keys and values, or of the hidden layer, of a part: 8 MiB."""
LEAST_TOKENS = 1024
"""In a part: with fewer, products read their weights too often."""
OTHER_REGION = -torch.inf
"""Added to the logit of two tokens that only the shift has brought into one window. With timm's
-100 sums are the same, but exp(-100) is denormal, and CPUs multiply such numbers 10 to 40 times
slower."""


class SwinBlock(SwinTransformerBlock):
    """timm's block with padding in either order, and a fast path for inference on CPUs.

    The fast path takes some windows, then some tokens at a time from the norm to the end of
    attention and of the MLP, so that what is between stays in the cache. It picks the tokens of its
    windows by their index, instead of copies for shift, padding, partition and back, and masks only
    the windows at the border. Results differ by the order of sums.
    """

    pad_before_roll = False
    """Pad features to whole windows before they are shifted, as Swin's authors, and not after."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if not is_cpu_inference(self, x):
            return super().forward(x)
        tokens = x.flatten(0, 2)
        layout = window_layout(
            *x.shape[:3], tuple(self.window_size), tuple(self.shift_size), self.pad_before_roll
        )
        attended = self._attend(tokens, layout)
        out = torch.empty_like(tokens)
        size = _at_once(4 * tokens.shape[1])  # the width of the hidden layer
        for first in range(0, len(tokens), size):
            part = slice(first, first + size)
            y = tokens[part] + attended.index_select(0, layout.place_of_token[part])
            torch.add(y, self.mlp(self.norm2(y)), out=out[part])
        return out.view(x.shape)

    def _attend(self, tokens: Tensor, layout: "WindowLayout") -> Tensor:
        """(BHW, C) tokens, before the norm -> (V A, C) of V windows with A places."""
        places, plain = layout.tokens.shape[1], layout.num_plain
        attended = tokens.new_empty(layout.tokens.numel(), tokens.shape[1])
        size = max(1, _at_once(3 * tokens.shape[1]) // places)
        starts = [*range(0, plain, size), *range(plain, len(layout.tokens), size)]
        for first, end in zip(starts, [*starts[1:], len(layout.tokens)], strict=True):
            index = layout.tokens[first:end].flatten()
            windows = self.norm1(tokens.index_select(0, index.clamp(min=0)))
            mask = None
            if first >= plain:
                windows[index < 0] = 0
                mask = layout.mask[first - plain : end - plain]
            out = self.attn(windows.view(-1, places, tokens.shape[1]), mask)
            attended[first * places : end * places] = out.flatten(0, 1)
        return attended

    def get_attn_mask(self, x: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor | None:
        """(V / B, A, A), 0 or `OTHER_REGION`; None without a shift."""
        mask = super().get_attn_mask(x, *args, **kwargs)
        return mask if mask is None else mask.masked_fill(mask < 0, OTHER_REGION)

    def _attn(self, x: Tensor) -> Tensor:
        """(B, H, W, C), after the norm -> (B, H, W, C)."""
        if not self.pad_before_roll:
            return super()._attn(x)
        height, width = x.shape[1:3]
        missing = (-height % self.window_size[0], -width % self.window_size[1])
        padded = F.pad(x, (0, 0, 0, missing[1], 0, missing[0]))
        return super()._attn(padded)[:, :height, :width]  # which finds nothing to pad


class WindowLayout(NamedTuple):
    """Where the tokens of a batch are in its V windows of A places."""

    tokens: Tensor
    """(V, A) int64 in [0, BHW), or -1 for padding. Plain windows, without padding and mask, are
    first."""
    num_plain: int
    """How many they are."""
    mask: Tensor
    """(V - num_plain, A, A), added to the logits of the other windows: 0 or `OTHER_REGION`."""
    place_of_token: Tensor
    """(BHW,) int64 in [0, V A), the inverse of ``tokens``."""


@lru_cache(maxsize=64)
def window_layout(
    batch: int,
    height: int,
    width: int,
    window: tuple[int, int],
    shift: tuple[int, int],
    pad_before_roll: bool,
) -> WindowLayout:
    """The layout for maps of a size, windows and their shift, as in timm's block."""
    rows, row_region = _axis(height, window[0], shift[0], pad_before_roll)
    columns, column_region = _axis(width, window[1], shift[1], pad_before_roll)
    inside = (rows >= 0)[:, None] & (columns >= 0)
    tokens = torch.where(inside, rows[:, None] * width + columns, -1)
    tokens = _partition(tokens, window)
    region = _partition(3 * row_region[:, None] + column_region, window)
    plain = ((region == region[:, :1]) & (tokens >= 0)).all(dim=1)
    image = height * width * torch.arange(batch, device="cpu")[:, None, None]
    tokens = torch.where(tokens >= 0, tokens + image, -1)  # (B, V / B, A)
    of_plain, of_others = tokens[:, plain].flatten(0, 1), tokens[:, ~plain].flatten(0, 1)
    tokens = torch.cat([of_plain, of_others])
    others = region[~plain].repeat(batch, 1)
    apart = others[:, :, None] != others[:, None]
    mask = torch.zeros(apart.shape, device="cpu").masked_fill(apart, OTHER_REGION)
    place_of_token = torch.empty(batch * height * width, dtype=torch.int64, device="cpu")
    places = (tokens.flatten() >= 0).nonzero().squeeze(1)
    place_of_token[tokens.flatten()[places]] = places
    return WindowLayout(tokens, len(of_plain), mask, place_of_token)


def _axis(length: int, window: int, shift: int, pad_before_roll: bool) -> tuple[Tensor, Tensor]:
    """The source of each place along an axis, -1 for padding, and its region 0, 1 or 2."""
    padded = -(-length // window) * window
    place = torch.arange(padded, device="cpu")
    rolled = padded if pad_before_roll else length
    source = torch.where(place < rolled, (place + shift) % rolled, length)
    source = torch.where(source < length, source, -1)
    region = (place >= padded - window).long() + (place >= padded - shift).long()
    return source, region if shift else torch.zeros_like(region)


def _partition(map_: Tensor, window: tuple[int, int]) -> Tensor:
    """(H, W) -> (V, A)."""
    rows, columns = (n // side for n, side in zip(map_.shape, window, strict=True))
    parts = map_.view(rows, window[0], columns, window[1])
    return parts.transpose(1, 2).reshape(rows * columns, -1)


def _at_once(width: int) -> int:
    """How many tokens of a width are in a part."""
    return max(LEAST_TOKENS, NUMBERS_AT_ONCE // width)
