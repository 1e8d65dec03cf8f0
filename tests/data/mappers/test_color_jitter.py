import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import numpy_seed
from detclip2.data.mappers.color_jitter import ColorJitter


def test_the_blends_one_by_one():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with numpy_seed(3):
        brightness, contrast, saturation = np.random.uniform(0.5, 1.5, 3)
    with numpy_seed(3):
        found = T.AugInput(image)
        ColorJitter(0.5)(found)
    sources = np.zeros(3), image.mean(), (image @ [0.299, 0.587, 0.114])[..., None]
    expected = image.astype(float)
    for source, weight in zip(sources, (brightness, contrast, saturation), strict=True):
        expected = np.clip((1 - weight) * source + weight * expected, 0, 255)
    assert found.image.dtype == np.uint8
    assert np.abs(found.image - expected).max() <= 3  # rounded down after each blend


def test_boxes_stay_and_nothing_changes_at_strength_zero():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    found = T.AugInput(image)
    transform = ColorJitter(0.0)(found)
    assert np.array_equal(found.image, image)
    box = np.array([[1.0, 2, 3, 4]])
    assert np.array_equal(transform.apply_box(box), box)
