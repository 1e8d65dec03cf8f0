"""Random changes of brightness, contrast and saturation."""

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import BlendTransform, Transform, TransformList

# Weights of red, green and blue in grey, as in Detectron2's RandomSaturation.
GREY = (0.299, 0.587, 0.114)


class ColorJitter(T.Augmentation):
    """Blends an image with black, with its mean, and with its grey values, in this order.

    Detectron2's RandomBrightness, RandomContrast and RandomSaturation in one, for RGB; boxes stay.

    Args:
        strength: each blend keeps a share of the image that is uniform in [1 - strength,
            1 + strength]; above 1 it exaggerates.
    """

    def __init__(self, strength: float = 0.4) -> None:
        super().__init__()
        self.strength = strength

    def get_transform(self, image: np.ndarray) -> Transform:
        """The blends of an image, (H, W, 3) RGB."""
        blends: list[Transform] = []
        for source in (np.zeros(1), image.mean(keepdims=True)[0], image.dot(GREY)[:, :, None]):
            weight = np.random.uniform(1 - self.strength, 1 + self.strength)
            blends.append(BlendTransform(source, 1 - weight, weight))
        return TransformList(blends)
