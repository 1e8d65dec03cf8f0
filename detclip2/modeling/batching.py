"""Batches of images: their padded sizes, and groups of equal size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

PIXELS_AT_ONCE = {"cpu": 2**20}
"""Device type -> maximum pixels of a batch in inference; other devices have no limit.
More pixels overflow the caches of a CPU and slow down every image."""


def padded_size(images: Sequence[Tensor], divisor: int) -> tuple[int, int]:
    """Height and width, px, to which (..., H, W) images are padded to make one batch."""
    step = max(divisor, 1)
    height, width = (max(image.shape[d] for image in images) for d in (-2, -1))
    return -(-height // step) * step, -(-width // step) * step


def pad_to(images: ImageList, size: tuple[int, int]) -> ImageList:
    """Pad a batch of images with zeros, on the right and below, to a height and width in px."""
    height, width = images.tensor.shape[-2:]
    missing = (0, size[1] - width, 0, size[0] - height)
    return ImageList(F.pad(images.tensor, missing), images.image_sizes)


def same_size_groups(
    samples: Sequence[Mapping[str, Any]], divisor: int, max_pixels: int | None = None
) -> Iterator[list[int]]:
    """Split samples into batches whose images are padded to one size.

    GroupNorm sees the padding, and the detections of an image must not depend on the other images
    of its batch.

    Args:
        samples: each has ``image`` (3, H, W).
        divisor: padded sides are multiples of it, px.
        max_pixels: maximum pixels in a batch of several images; None: no limit.

    Returns:
        Indices into the samples, each index once.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(padded_size([sample["image"]], divisor), []).append(i)
    for size, members in groups.items():
        number = len(members) if max_pixels is None else max(1, max_pixels // math.prod(size))
        for i in range(0, len(members), number):
            yield members[i : i + number]
