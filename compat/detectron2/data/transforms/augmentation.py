"""Augmentations, which choose transforms, and their inputs."""

import inspect
import pprint

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = ["AugInput", "Augmentation", "AugmentationList"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Augmentation:
    """A policy, often random, that makes a `Transform` from the data it is asked to change.

    Subclasses write `get_transform`. The names of its arguments say which attributes of the
    input it wants (`image`, `boxes`, `sem_seg` for `AugInput`); a single one is the image.
    """

    input_args = None

    def _init(self, params=None):
        """Keep the arguments of a constructor, `locals()` there, as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input) -> Transform:
        """Change `aug_input` in place and return the transform that did it."""
        if self.input_args is None:
            self.input_args = self._argument_names()
        transform = self.get_transform(*(self._wanted(aug_input, n) for n in self.input_args))
        assert isinstance(transform, (Transform, TransformList)), (
            f"{type(self).__name__}.get_transform gave a {type(transform)}, not a Transform"
        )
        aug_input.transform(transform)
        return transform

    def _argument_names(self):
        parameters = inspect.signature(self.get_transform).parameters.values()
        if len(parameters) == 1:
            return ("image",)
        if any(p.kind in _VARIADIC for p in parameters):
            raise TypeError(
                f"{type(self).__name__}.get_transform takes *args or **kwargs: "
                "which attributes it wants is unknown, so write __call__ as well"
            )
        return tuple(p.name for p in parameters)

    def _wanted(self, aug_input, name):
        if not hasattr(aug_input, name):
            raise AttributeError(
                f"{type(self).__name__}.get_transform wants '{name}', "
                f"which {type(aug_input).__name__} does not have"
            )
        return getattr(aug_input, name)

    def _rand_range(self, low=1.0, high=None, size=None):
        """Uniform in [low, high), or in [0, low) if `high` is not given."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self):
        """The call that makes this object, without default arguments."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind in _VARIADIC or not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _Fixed(Augmentation):
    """A policy with a fixed transform."""

    def __init__(self, transform):
        self.transform = transform

    def get_transform(self, *args):
        return self.transform

    def __repr__(self):
        return repr(self.transform)

    __str__ = __repr__


def _as_augmentation(augmentation_or_transform) -> Augmentation:
    if isinstance(augmentation_or_transform, Augmentation):
        return augmentation_or_transform
    assert isinstance(augmentation_or_transform, Transform), augmentation_or_transform
    return _Fixed(augmentation_or_transform)


class AugmentationList(Augmentation):
    """Augmentations in sequence: each gets the output of the one before."""

    def __init__(self, augs):
        self.augs = [_as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self):
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """The data that augmentations read and change.

    `image` is (H, W) or (H, W, C), uint8 or floating point; `boxes` is (N, 4) XYXY in pixels;
    `sem_seg` is (H, W) uint8.
    """

    def __init__(self, image, *, boxes=None, sem_seg=None):
        assert isinstance(image, np.ndarray), f"the image is a {type(image)}, not a numpy array"
        assert image.ndim in (2, 3), f"an image has 2 or 3 dimensions, not {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm) -> None:
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations) -> TransformList:
        return AugmentationList(augmentations)(self)
