"""Boxes and their formats."""

import math
from enum import IntEnum, unique

import numpy as np
import torch
from torchvision.ops.boxes import box_iou

__all__ = ["BoxMode", "Boxes", "pairwise_iou"]


@unique
class BoxMode(IntEnum):
    """The meaning of a box's numbers.

    Absolute modes are in pixels: corners (x0, y0, x1, y1), corner and size (x0, y0, w, h), or
    centre, size and counter-clockwise angle in degrees (xc, yc, w, h, a). Relative modes are
    fractions of the image's size, and cannot be converted.
    """

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: "BoxMode", to_mode: "BoxMode"):
        """Convert boxes from one mode to another.

        Args:
            box: list or tuple of 4 or 5 numbers, or an array or tensor (N, 4) or (N, 5); it is not
                modified.
            from_mode: the mode of `box`.
            to_mode: the mode wanted.

        Returns:
            The converted boxes, in the type of `box`.

        Raises:
            NotImplementedError: there is no such conversion.
        """
        if from_mode == to_mode:
            return box
        is_single = isinstance(box, list | tuple)
        if is_single:
            assert len(box) in (4, 5), "BoxMode.convert takes boxes of 4 or 5 numbers."
            boxes = torch.tensor(box)[None]
        else:
            boxes = torch.as_tensor(np.asarray(box) if isinstance(box, np.ndarray) else box)
        relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
        assert not {from_mode, to_mode} & set(relative), "Relative mode not yet supported!"
        try:
            conversion = _CONVERSIONS[from_mode, to_mode]
        except KeyError:
            raise NotImplementedError(
                f"Conversion from BoxMode {from_mode} to {to_mode} is not supported yet"
            ) from None
        converted = conversion(boxes)
        if is_single:
            return type(box)(converted[0].tolist())
        return converted.numpy() if isinstance(box, np.ndarray) else converted


def _corners_from_size(boxes):
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4], boxes[:, 4:]], dim=1)


def _size_from_corners(boxes):
    return torch.cat([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2], boxes[:, 4:]], dim=1)


def _rotated_from_size(boxes):
    exact = boxes.double()
    size = exact[:, 2:4]
    no_angle = torch.zeros_like(size[:, :1])
    return torch.cat([exact[:, :2] + size / 2, size, no_angle], dim=1).to(boxes.dtype)


def _corners_around_rotated(boxes):
    assert boxes.shape[-1] == 5, "The last dimension of input shape must be 5 for XYWHA format"
    exact = boxes.double()
    w, h = exact[:, 2], exact[:, 3]
    angle = exact[:, 4] * (math.pi / 180)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half = torch.stack([cos * w + sin * h, cos * h + sin * w], dim=1) / 2
    return torch.cat([exact[:, :2] - half, exact[:, :2] + half], dim=1).to(boxes.dtype)


_CONVERSIONS = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _corners_from_size,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _size_from_corners,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _rotated_from_size,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _corners_around_rotated,
}


class Boxes:
    """N boxes in a float32 tensor (N, 4), XYXY in absolute pixels, that behaves like a tensor."""

    def __init__(self, tensor: torch.Tensor):
        if not isinstance(tensor, torch.Tensor):
            tensor = torch.as_tensor(tensor, device=torch.device("cpu"))
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape((-1, 4))
        assert tensor.dim() == 2 and tensor.size(-1) == 4, tensor.size()  # noqa: PT018
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device):
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> torch.Tensor:
        """(N,), px^2."""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return size[:, 0] * size[:, 1]

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip the boxes, in place, to an image of `box_size` (height, width)."""
        assert torch.isfinite(self.tensor).all(), (
            "Boxes with infinite or NaN coordinates cannot be clipped."
        )
        height, width = box_size
        x = self.tensor[:, 0::2].clamp(min=0, max=width)
        y = self.tensor[:, 1::2].clamp(min=0, max=height)
        self.tensor = torch.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), dim=-1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """(N,) bool: are both sides longer than `threshold`?"""
        size = self.tensor[:, 2:] - self.tensor[:, :2]
        return (size[:, 0] > threshold) & (size[:, 1] > threshold)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """(N,) bool: does no side exceed (height, width) by more than the threshold?"""
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=-1)
        starts_inside = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        ends_inside = (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)
        return starts_inside & ends_inside

    def get_centers(self) -> torch.Tensor:
        """(N, 2), (x, y)."""
        corners = self.tensor
        return (corners[:, :2] + corners[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def __getitem__(self, item) -> "Boxes":
        """Boxes of an int (one box), a slice, a bool mask (N,) or integer indices."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        chosen = self.tensor[item]
        assert chosen.dim() == 2, f"Indexing on Boxes with {item} failed to return a matrix!"
        return Boxes(chosen)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @torch.jit.unused
    def __iter__(self):
        yield from self.tensor

    def __repr__(self) -> str:
        return "Boxes(" + str(self.tensor) + ")"

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """All boxes of a list, in a tensor of its own."""
        assert isinstance(boxes_list, (list, tuple))
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        assert all([isinstance(boxes, Boxes) for boxes in boxes_list])  # noqa: C419
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M): intersection over union of each of N boxes with each of M; 0 if nothing is shared."""
    # Two boxes without area would be 0 / 0.
    return torch.nan_to_num(box_iou(boxes1.tensor, boxes2.tensor), nan=0.0)
