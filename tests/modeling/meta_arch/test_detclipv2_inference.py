"""The whole model in inference: options that must not change detections."""

import pytest
import torch

from detclip2.modeling import batching
from detclip2.modeling.thresholds import DetectionThresholds
from tests.helpers.detclip_samples import NAMES, assert_same, detect, image


@pytest.mark.parametrize(("limit", "batches"), [(2 * 64 * 96, [2, 2, 1]), (1, [1] * 5)])
def test_batches_on_a_cpu_have_a_limit_of_pixels(detector, monkeypatch, limit, batches):
    samples = [{"image": image(64, 96, seed=i)} for i in range(5)]
    together = detect(detector, samples)
    seen = []
    detector.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setitem(batching.PIXELS_AT_ONCE, "cpu", limit)
    for one, found in zip(together, detect(detector, samples), strict=True):
        assert_same(found, one)
    assert seen == batches


def test_padding_changes_detections(detector):
    """Therefore only images of one padded size share a batch."""
    small, large = {"image": image(64, 64)}, {"image": image(64, 128)}
    with torch.no_grad():
        alone = detector.encode_images(detector.preprocess_image([small]))
        padded = detector.encode_images(detector.preprocess_image([small, large]))
    finest = padded.regions[0, : 8 * 16].view(8, 16, -1)[:, :8]
    assert (finest - alone.regions[0, :64].view(8, 8, -1)).abs().max() > 0.01


def test_boxes_are_in_the_original_size(detector):
    [found] = detect(detector, [{"image": image()}])
    [large] = detect(detector, [{"image": image(), "height": 128, "width": 48}])
    assert large.image_size == (128, 48)
    scale = torch.tensor([0.5, 2.0, 0.5, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, found.pred_boxes.tensor * scale)


def test_thresholds_of_a_call_apply_to_that_call_alone(detector):
    samples = [{"image": image()}]
    [before] = detector.inference(samples)
    middle = before.scores.median().item()
    [sure] = detector.inference(samples, thresholds=DetectionThresholds(score_threshold=middle))
    [few] = detector.inference(samples, thresholds=DetectionThresholds(max_detections=2))
    assert 0 < len(sure) < len(before)
    assert few.scores.tolist() == before.scores[:2].tolist()
    assert_same(detector.inference(samples)[0], before)


def test_a_prepared_vocabulary_equals_the_vocabulary(detector):
    samples = [{"image": image()}]
    [expected] = detect(detector, samples)
    state = detector.prepare_vocabulary(NAMES)
    detector.set_vocabulary(["something else"])
    for found in (
        detector.inference(samples, state),
        detector.inference([{**samples[0], "vocabulary": state}]),
        detector.inference(samples, NAMES),
    ):
        assert_same(found[0], expected)
    assert len(expected) > 0
