from .mask_ops import paste_masks_in_image
from .nms import batched_nms
from .shape_spec import ShapeSpec

__all__ = ["ShapeSpec", "batched_nms", "paste_masks_in_image"]
