"""The whole model in inference: what must not change what is found."""

import math

import pytest
import torch

from detclip2.modeling.meta_arch import detclipv2
from tests.helpers.detclip_samples import assert_same, detect, image

SIZES = [(64, 96), (64, 96), (96, 64), (60, 70), (33, 33), (64, 96), (1, 1), (1, 200)]


def test_batched_equals_one_by_one(detector):
    """Images of equal size, of sizes with equal padding, and of others."""
    samples = [{"image": image(*size, seed=i)} for i, size in enumerate(SIZES)]
    together = detect(detector, samples)
    assert [found.image_size for found in together] == SIZES
    for one, found in zip(samples, together, strict=True):
        assert_same(found, detect(detector, [one])[0])
    assert sum(map(len, together)) > 50


@pytest.mark.parametrize(("limit", "batches"), [(2 * 64 * 96, [2, 2, 1]), (1, [1] * 5)])
def test_a_processor_takes_few_pixels_at_once(detector, monkeypatch, limit, batches):
    samples = [{"image": image(64, 96, seed=i)} for i in range(5)]
    together = detect(detector, samples)
    seen = []
    detector.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setitem(detclipv2.PIXELS_AT_ONCE, "cpu", limit)
    for one, found in zip(together, detect(detector, samples), strict=True):
        assert_same(found, one)
    assert seen == batches


def test_padding_alone_would_change_what_is_found(detector):
    """The reason why only images of one padded size share a batch."""
    small, large = {"image": image(64, 64)}, {"image": image(64, 128)}
    with torch.no_grad():
        alone, _ = detector.predict(detector.preprocess_images([small]))
        padded, _ = detector.predict(detector.preprocess_images([small, large]))
    finest = padded.regions[0, : 8 * 16].view(8, 16, -1)[:, :8]
    assert (finest - alone.regions[0, :64].view(8, 8, -1)).abs().max() > 0.01


def test_boxes_are_in_the_original_size(detector):
    [found] = detect(detector, [{"image": image()}])
    [large] = detect(detector, [{"image": image(), "height": 128, "width": 48}])
    assert large.image_size == (128, 48)
    scale = torch.tensor([0.5, 2.0, 0.5, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, found.pred_boxes.tensor * scale)


def test_whole_numbers_and_fractions_are_one_image(detector):
    [a] = detect(detector, [{"image": image()}])
    [b] = detect(detector, [{"image": image().float()}])
    assert_same(a, b)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_image_finds_nothing_and_leaves_others_alone(detector, value):
    broken = image().float()
    broken[0, 10, 10] = value
    found, other = detect(detector, [{"image": broken}, {"image": image(seed=1)}])
    assert found.pred_boxes.tensor.isfinite().all()
    assert found.scores.isfinite().all()
    assert_same(other, detect(detector, [{"image": image(seed=1)}])[0])
