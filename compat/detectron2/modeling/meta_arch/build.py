"""Whole models by name."""

from detectron2.utils.registry import Registry

__all__ = ["META_ARCH_REGISTRY", "build_model"]

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg):
    """The model `cfg.MODEL.META_ARCHITECTURE`, made from `cfg`, on `cfg.MODEL.DEVICE`.

    Its weights are not loaded.
    """
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(cfg.MODEL.DEVICE)
