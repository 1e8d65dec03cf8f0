from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks

__all__ = ["BitMasks", "BoxMode", "Boxes", "ImageList", "Instances", "pairwise_iou"]
