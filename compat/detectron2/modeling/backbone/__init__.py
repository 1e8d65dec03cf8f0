from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
from .fpn import FPN

__all__ = ["BACKBONE_REGISTRY", "FPN", "Backbone", "build_backbone"]
