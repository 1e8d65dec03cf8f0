"""Features of boxes from a pyramid."""

import math

import torch
from torch import nn
from torchvision.ops.roi_align import roi_align

from detectron2 import _subset
from detectron2.structures import Boxes

__all__ = ["ROIPooler"]

# Type -> whether the centre of the first pixel is at half a pixel.
_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True}


class ROIPooler(nn.Module):
    """Samples the features of each box from the level of the pyramid that its size asks for.

    A box with sides of `canonical_box_size` on average is read from the level with stride
    2 ** `canonical_level`; one of twice the size from the next (Feature Pyramid Networks, eq. 1).

    Args:
        output_size: height and width of the result, or one number for both.
        scales: 1 / stride of each level, finest first; each is half of the one before.
        sampling_ratio: samples of a cell and direction; 0: as many as the cell has pixels.
        pooler_type: "ROIAlignV2", or "ROIAlign", which is shifted by half a pixel.
        canonical_box_size: px.
        canonical_level: log2 of a stride.
    """

    def __init__(
        self,
        output_size,
        scales,
        sampling_ratio,
        pooler_type,
        canonical_box_size=224,
        canonical_level=4,
    ):
        super().__init__()
        if pooler_type not in _ALIGNED:
            raise NotImplementedError(_subset.not_here(f"Pooling by {pooler_type}"))
        self.output_size = (output_size,) * 2 if isinstance(output_size, int) else output_size
        assert len(self.output_size) == 2, output_size
        levels = [-math.log2(scale) for scale in scales]
        assert all(level == int(level) for level in levels), f"not powers of 2: {scales}"
        self.min_level, self.max_level = int(levels[0]), int(levels[-1])
        assert len(scales) == self.max_level - self.min_level + 1, f"not consecutive: {scales}"
        assert self.min_level >= 0, scales
        self.scales = list(scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = _ALIGNED[pooler_type]
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> torch.Tensor:
        """Features of all boxes, image by image.

        Args:
            x: levels of (B, C, H_l, W_l).
            box_lists: the boxes of each of B images, XYXY px of the image.

        Returns:
            (boxes of all images, C, *output_size).
        """
        assert len(x) == len(self.scales), f"{len(x)} levels, {len(self.scales)} scales"
        assert len(box_lists) == len(x[0]), f"{len(box_lists)} lists of boxes, {len(x[0])} images"
        boxes = torch.cat([of_image.tensor for of_image in box_lists])
        image = torch.repeat_interleave(
            torch.arange(len(box_lists), device=boxes.device),
            torch.tensor([len(of_image) for of_image in box_lists], device=boxes.device),
        )
        regions = torch.cat([image[:, None].to(boxes), boxes], dim=1)
        level = self._levels(boxes)
        pooled = x[0].new_zeros(len(boxes), x[0].shape[1], *self.output_size)
        for number, (features, scale) in enumerate(zip(x, self.scales, strict=True)):
            own = (level == number).nonzero().squeeze(1)
            of_level = roi_align(
                features,
                regions[own].to(features.dtype),
                self.output_size,
                scale,
                self.sampling_ratio,
                self.aligned,
            )
            pooled = pooled.index_put((own,), of_level.to(pooled.dtype))
        return pooled

    def _levels(self, boxes: torch.Tensor) -> torch.Tensor:
        """(N, 4) -> (N,) indices of levels."""
        size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        exact = self.canonical_level + torch.log2(size / self.canonical_box_size + 1e-8)
        return exact.floor().clamp(self.min_level, self.max_level).long() - self.min_level
