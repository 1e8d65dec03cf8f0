"""Backbones by name."""

from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

from .backbone import Backbone

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]

BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(cfg, input_shape=None) -> Backbone:
    """The backbone `cfg.MODEL.BACKBONE.NAME`, made from `cfg` and the ShapeSpec of its input."""
    image = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    make = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)
    backbone = make(cfg, image if input_shape is None else input_shape)
    assert isinstance(backbone, Backbone), f"{type(backbone)} is no Backbone."
    return backbone
