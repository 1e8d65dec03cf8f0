"""Resizing with PIL, where fvcore's ScaleTransform uses torch."""

import numpy as np
import torch
from fvcore.transforms.transform import ScaleTransform
from PIL import Image
from torch.nn import functional as F

__all__ = ["ResizeTransform"]

_TORCH_MODES = {
    Image.NEAREST: "nearest",
    Image.BILINEAR: "bilinear",
    Image.BICUBIC: "bicubic",
}


class ResizeTransform(ScaleTransform):
    """From (h, w) to (new_h, new_w): PIL for uint8 images, torch for all others.

    `interp` is one of PIL's filters, bilinear if not given.
    """

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__(h, w, new_h, new_w, Image.BILINEAR if interp is None else interp)

    def apply_image(self, img, interp=None):
        assert img.shape[:2] == (self.h, self.w), f"{img.shape} is not ({self.h}, {self.w}, ...)"
        assert img.ndim <= 4, img.shape
        interp = self.interp if interp is None else interp
        resize = self._resize_by_pil if img.dtype == np.uint8 else self._resize_by_torch
        return resize(img, interp)

    def _resize_by_pil(self, img, interp):
        one_channel = img.ndim == 3 and img.shape[2] == 1
        image = Image.fromarray(img[:, :, 0] if one_channel else img)
        resized = np.asarray(image.resize((self.new_w, self.new_h), interp))
        return resized[:, :, None] if one_channel else resized

    def _resize_by_torch(self, img, interp):
        mode = _TORCH_MODES[interp]
        channels_last = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1)
        resized = F.interpolate(
            channels_last.permute(2, 0, 1)[None],
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_segmentation(self, segmentation):
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self):
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)
