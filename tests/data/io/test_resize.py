"""Resizing against Pillow's, with which Detectron2 resizes."""

import warnings

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image

from detclip2.data.io.resize import ImageInput, resize

SIZES = [
    ((48, 64), (80, 107)),
    ((120, 160), (40, 53)),
    ((90, 70), (90, 30)),
    ((1, 7), (5, 9)),
    ((300, 400), (1, 3)),
]


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def smooth(size):
    coarse = Image.fromarray(noise((6, 8)))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("make", [noise, smooth])
def test_at_most_one_grey_level_from_pillow(old, new, make):
    """Of noise, one value in 10 million differs by two; none of these images has one."""
    image = make(old)
    expected = np.asarray(Image.fromarray(image).resize(new[::-1], Image.Resampling.BILINEAR))
    found = resize(image, new)
    assert (found.shape, found.dtype) == ((*new, 3), np.uint8)
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_the_same_size_costs_nothing():
    image = noise((5, 6))
    assert resize(image, (5, 6)) is image


def test_mirrored_and_read_only_images():
    """`np.flip` is a view, and Pillow's arrays cannot be written to."""
    image = noise((20, 30))
    expected = resize(np.ascontiguousarray(image[:, ::-1]), (40, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(resize(image[:, ::-1], (40, 50)), expected)
        once = resize(image, (40, 50))
        image.flags.writeable = False
        assert np.array_equal(resize(image, (40, 50)), once)
    assert np.array_equal(image, noise((20, 30)))


def test_augmentations_of_detectron2_resize_by_it(monkeypatch):
    """Bilinear resizing alone; sizes, crops, flips and other filters are Detectron2's."""
    image = noise((60, 80))
    augmentations = [T.ResizeShortestEdge(30, 50), T.RandomFlip(prob=1.0), T.Resize((45, 45))]
    ours, theirs = ImageInput(image), T.AugInput(image)
    transforms = T.AugmentationList(augmentations)(ours)
    T.AugmentationList(augmentations)(theirs)
    assert ours.image.shape == theirs.image.shape == (45, 45, 3)
    assert np.abs(ours.image.astype(int) - theirs.image).max() <= 2  # resized twice
    assert transforms.apply_coords(np.array([[80.0, 60.0]])).tolist() == [[0, 45]]
    nearest = T.Resize((45, 45), interp=Image.Resampling.NEAREST)
    inputs = ImageInput(image), T.AugInput(image)
    for one in inputs:
        T.AugmentationList([nearest])(one)
    assert np.array_equal(inputs[0].image, inputs[1].image)

    def refuse(*_):
        raise AssertionError("Pillow resizes")

    monkeypatch.setattr(T.ResizeTransform, "apply_image", refuse)
    T.AugmentationList(augmentations)(ImageInput(image))
