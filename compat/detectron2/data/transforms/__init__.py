from fvcore.transforms.transform import *  # noqa: F403
from fvcore.transforms.transform import TransformList  # noqa: F401  (type checkers do not see *)

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomCrop, RandomFlip, Resize, ResizeShortestEdge
from .transform import ResizeTransform

__all__ = [  # besides all of fvcore's transforms
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "ResizeShortestEdge",
    "ResizeTransform",
]
