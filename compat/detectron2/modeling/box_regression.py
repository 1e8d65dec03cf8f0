"""Transforms between boxes."""

import math

import torch

__all__ = ["Box2BoxTransform"]


class Box2BoxTransform:
    """R-CNN's (dx, dy, dw, dh): the shift of the centre in widths and heights, and log scales."""

    def __init__(
        self,
        weights: tuple[float, float, float, float],
        scale_clamp: float = math.log(1000.0 / 16),
    ):
        """`weights` multiply the deltas; `scale_clamp` is the most that dw and dh may be."""
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas (N, 4) from boxes (N, 4) to targets (N, 4), both XYXY."""
        for boxes in (src_boxes, target_boxes):
            assert isinstance(boxes, torch.Tensor), f"Boxes are a tensor, not {type(boxes)}."
        center, size = _center_and_size(src_boxes)
        target_center, target_size = _center_and_size(target_boxes)
        assert (size[:, 0] > 0).all(), "Input boxes to Box2BoxTransform are not valid!"
        wx, wy, ww, wh = self.weights
        shift = target_center - center
        scale = torch.log(target_size / size)
        dx, dy = wx * shift[:, 0] / size[:, 0], wy * shift[:, 1] / size[:, 1]
        return torch.stack([dx, dy, ww * scale[:, 0], wh * scale[:, 1]], dim=1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Move boxes (N, 4) XYXY by k deltas each, (N, 4 k): float32 boxes (N, 4 k)."""
        columns = deltas.float().unflatten(1, (-1, 4)).unbind(-1)
        dx, dy, dw, dh = (
            column / weight for column, weight in zip(columns, self.weights, strict=True)
        )
        center, size = (x[:, None] for x in _center_and_size(boxes.float()))
        scale = torch.stack([dw, dh], dim=-1).clamp(max=self.scale_clamp)
        new_center = torch.stack([dx, dy], dim=-1) * size + center
        half = 0.5 * (torch.exp(scale) * size)
        return torch.cat([new_center - half, new_center + half], dim=-1).flatten(1)


def _center_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * size, size
