"""Masks of boxes as masks of the image."""

import torch
from torch.nn import functional

__all__ = ["paste_masks_in_image"]


def paste_masks_in_image(
    masks: torch.Tensor, boxes, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Stretch N masks to their boxes, bilinearly, in an image of zeros.

    Args:
        masks: (N, M, M) in [0, 1].
        boxes: `Boxes` or a tensor (N, 4), XYXY px.
        image_shape: height and width, px.
        threshold: of the result, which is bool; below 0 the result is uint8, 0 to 255.

    Returns:
        (N, height, width).
    """
    assert masks.shape[-1] == masks.shape[-2], "Only square masks can be pasted."
    boxes = boxes if isinstance(boxes, torch.Tensor) else boxes.tensor
    assert len(boxes) == len(masks), (boxes.shape, masks.shape)
    height, width = image_shape
    dtype = torch.bool if threshold >= 0 else torch.uint8
    image_masks = masks.new_zeros((len(masks), height, width), dtype=dtype)
    for pasted, mask, box in zip(image_masks, masks.float(), boxes.float(), strict=True):
        (x, columns), (y, rows) = _places(box[0::2], width), _places(box[1::2], height)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
        values = functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        pasted[rows, columns] = values >= threshold if threshold >= 0 else values * 255
    return image_masks


def _places(ends: torch.Tensor, limit: int) -> tuple[torch.Tensor, slice]:
    """The pixels that a box may touch, by their centres in [-1, 1] of the box, and as a slice."""
    start, stop = ends.tolist()
    pixels = slice(max(int(start) - 1, 0), max(min(int(stop) + 2, limit), 0))
    centers = torch.arange(pixels.start, max(pixels.stop, pixels.start), device=ends.device) + 0.5
    return (centers - ends[0]) / (ends[1] - ends[0]) * 2 - 1, pixels
