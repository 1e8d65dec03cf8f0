"""The shape of a layer's output."""

from dataclasses import dataclass

__all__ = ["ShapeSpec"]


@dataclass
class ShapeSpec:
    """The shape of a feature map; None is unknown. `stride` is in pixels of the input image."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
