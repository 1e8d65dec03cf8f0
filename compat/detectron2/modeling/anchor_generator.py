"""Anchors: boxes of fixed sizes at every location of the feature maps."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes

__all__ = ["DefaultAnchorGenerator"]


class DefaultAnchorGenerator(nn.Module):
    """Anchors of all sizes and aspect ratios at every location, as in Faster R-CNN."""

    box_dim: torch.jit.Final[int] = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides, offset=0.5):
        """Choose the anchors.

        Args:
            sizes: a list for each feature map of the square roots of the anchors' areas, in px; or
                one such list, for all.
            aspect_ratios: in the same way, heights / widths.
            strides: of the feature maps, in px.
            offset: of the first anchor's centre from the image's corner, in strides, in [0, 1).
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, offset
        self.strides = strides
        self.num_features = len(strides)
        self.offset = offset
        all_sizes = _per_feature(sizes, self.num_features, "sizes")
        all_ratios = _per_feature(aspect_ratios, self.num_features, "aspect_ratios")
        self.cell_anchors = _Buffers(
            self.generate_cell_anchors(*cell) for cell in zip(all_sizes, all_ratios, strict=True)
        )

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        options = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": options.SIZES,
            "aspect_ratios": options.ASPECT_RATIOS,
            "offset": options.OFFSET,
            "strides": [shape.stride for shape in input_shape],
        }

    @property
    @torch.jit.unused
    def num_anchors(self) -> list[int]:
        """Numbers of anchors a location, by feature map."""
        return [len(anchors) for anchors in self.cell_anchors.buffers()]

    @property
    @torch.jit.unused
    def num_cell_anchors(self) -> list[int]:
        """The same as `num_anchors`."""
        return self.num_anchors

    @torch.jit.unused
    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)):
        """The anchors around (0, 0), (sizes x ratios, 4) XYXY px."""
        anchors = []
        for size, ratio in itertools.product(sizes, aspect_ratios):
            width = math.sqrt(size * size / ratio)
            height = width * ratio
            anchors.append((-width / 2, -height / 2, width / 2, height / 2))
        return torch.tensor(anchors, dtype=torch.float32)

    def forward(self, features: list[torch.Tensor]):
        """The anchors of each feature map (B, C, h, w): h * w * anchors Boxes, row by row."""
        boxes: list[Boxes] = []
        for index, (_, cell) in enumerate(self.cell_anchors.named_buffers()):
            height, width = features[index].shape[-2:]
            step = self.strides[index]
            # Moved to the device afterwards: arange of floats is more exact on the CPU.
            first = self.offset * step
            x = torch.arange(first, width * step, step, dtype=torch.float32).to(cell.device)
            y = torch.arange(first, height * step, step, dtype=torch.float32).to(cell.device)
            shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack((shift_x, shift_y, shift_x, shift_y), dim=-1)
            boxes.append(Boxes((shifts.view(-1, 1, 4) + cell).view(-1, 4)))
        return boxes


class _Buffers(nn.Module):
    """A list of tensors that move with the module, and are not saved."""

    def __init__(self, tensors):
        super().__init__()
        for index, tensor in enumerate(tensors):
            self.register_buffer(str(index), tensor, persistent=False)


def _per_feature(values, num_features: int, name: str):
    """One list for each feature map, from one or as many."""
    assert isinstance(values, Sequence), (
        f"{name} in anchor generator has to be a list, not {values}"
    )
    assert len(values) > 0, f"{name} in anchor generator cannot be empty!"
    if not isinstance(values[0], Sequence):
        return [values] * num_features
    if len(values) == 1:
        return list(values) * num_features
    assert len(values) == num_features, (
        f"{name} in anchor generator is for {len(values)} feature maps, and there are "
        f"{num_features}"
    )
    return values
