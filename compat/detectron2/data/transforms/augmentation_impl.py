"""The augmentations in use: flips, resizing, crops."""

import sys
from typing import Tuple  # noqa: UP035  TorchScript, which compiles get_output_shape, wants it

import numpy as np
import torch
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation
from .transform import ResizeTransform

__all__ = ["RandomCrop", "RandomFlip", "Resize", "ResizeShortestEdge"]


class RandomFlip(Augmentation):
    """A flip, left to right or top to bottom, with a probability."""

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        if horizontal == vertical:
            raise ValueError("one flip is either horizontal or vertical: for both take two")
        self._init(locals())

    def get_transform(self, image):
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """To one size: `shape` is (height, width), or the side of a square."""

    def __init__(self, shape, interp=Image.BILINEAR):
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image):
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Keeps the aspect ratio: the shorter edge gets a given length, or less if the longer one
    would exceed `max_size`.

    The length is drawn from the interval [a, b] (`sample_style` "range") or from a list
    ("choice"). Length 0 leaves the image as it is.
    """

    @torch.jit.unused
    def __init__(
        self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=Image.BILINEAR
    ):
        assert sample_style in ("range", "choice"), f"sample_style is '{sample_style}'"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range:
            assert len(short_edge_length) == 2, f"{short_edge_length} is not an interval"
        self._init(locals())

    @torch.jit.unused
    def get_transform(self, image):
        if self.is_range:
            low, high = self.short_edge_length
            length = np.random.randint(low, high + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        height, width = image.shape[:2]
        new_size = self.get_output_shape(height, width, length, self.max_size)
        return ResizeTransform(height, width, *new_size, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> Tuple[int, int]:  # noqa: UP006
        """(height, width) after resizing, rounded to the nearest."""
        short, long = min(oldh, oldw), max(oldh, oldw)
        new_short = short_edge_length * 1.0
        new_long = new_short / short * long
        if new_long > max_size:
            shrink = max_size * 1.0 / new_long
            new_short, new_long = new_short * shrink, new_long * shrink
        rounded_short, rounded_long = int(new_short + 0.5), int(new_long + 0.5)
        return (rounded_short, rounded_long) if oldh < oldw else (rounded_long, rounded_short)


class RandomCrop(Augmentation):
    """A rectangle anywhere in the image. `crop_size` means, by `crop_type`:

    - "relative": the parts of height and width, in (0, 1];
    - "relative_range": the least such parts, up to 1;
    - "absolute": height and width, as far as the image has them;
    - "absolute_range": the least and the greatest side, as far as the image has them.
    """

    def __init__(self, crop_type: str, crop_size):
        assert crop_type in ("relative", "relative_range", "absolute", "absolute_range"), crop_type
        self._init(locals())

    def get_transform(self, image):
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        y0 = np.random.randint(height - crop_height + 1)
        x0 = np.random.randint(width - crop_width + 1)
        return CropTransform(x0, y0, crop_width, crop_height)

    def get_crop_size(self, image_size):
        """(height, width) in pixels of a crop from an image of that size."""
        height, width = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, height), min(second, width)
        if self.crop_type == "absolute_range":
            assert first <= second, f"{self.crop_size} is not an interval"
            crop_height = np.random.randint(min(height, first), min(height, second) + 1)
            crop_width = np.random.randint(min(width, first), min(width, second) + 1)
            return crop_height, crop_width
        parts = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            parts = parts + np.random.rand(2) * (1 - parts)
            first, second = parts
        return int(height * first + 0.5), int(width * second + 0.5)
