from .backbone import BACKBONE_REGISTRY, FPN, Backbone, build_backbone
from .meta_arch import META_ARCH_REGISTRY, build_model
from .postprocessing import detector_postprocess

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "META_ARCH_REGISTRY",
    "Backbone",
    "build_backbone",
    "build_model",
    "detector_postprocess",
]
