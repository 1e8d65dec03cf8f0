"""Degenerate inputs that every meta-architecture must take: a base class of tests.

A test module makes a subclass with two fixtures and, by kind of supervision, the names of the
losses:

    class TestDegenerateInputs(DegenerateInputs):
        losses = {"detection": {"loss_align", ...}, "grounding": ..., "caption": ...}

        @pytest.fixture
        def model(self, tiny_model):
            return tiny_model
"""

import math

import pytest
import torch
from detectron2.engine import SimpleTrainer

from detclip2.utils.errors import UserError
from tests.helpers.detclip_samples import (
    NAMES,
    assert_same,
    captions,
    detect,
    image,
    sample,
    without_boxes,
)

BATCHES = {
    "two images": [sample(), sample(seed=1, phrases=["tree", "bird"])],
    "one image": [sample()],
    "no boxes": [without_boxes(), without_boxes(seed=1)],
    "no boxes, no phrases": [without_boxes(phrases=[])],
    "half without boxes": [sample(), without_boxes(seed=1)],
    "one phrase": [sample(classes=(0, 0), phrases=["dog"])],
    "the same phrases": [sample(), sample(seed=1, phrases=["cat", "dog", "sky"])],
    "many phrases": [sample(phrases=["dog", "cat", *(f"thing {i}" for i in range(1000))])],
    "a box twice": [sample(boxes=[(10, 8, 50, 40)] * 2, classes=(0, 1))],
    "a tiny box": [sample(boxes=[(10, 8, 10.5, 8.5)], classes=(0,))],
    "other sizes": [sample(), {**sample(), "image": image(40, 130)}],
    "one pixel": [{**without_boxes(), "image": image(1, 1)}, sample()],
    "a strip": [{**without_boxes(), "image": image(1, 200)}],
}
NO_PHRASE = sample(supervision="caption", phrases=[], num_positives=0)
CAPTIONS = {
    "two": captions(),
    "one": captions()[:1],
    "the same twice": captions()[:1] * 2,
    "without phrases": [NO_PHRASE],
    "one without phrases": [*captions(), NO_PHRASE],
    "many phrases": [
        {**captions()[0], "phrases": [f"word {i}" for i in range(1000)], "num_positives": 1000}
    ],
    "one pixel": [{**captions()[0], "image": image(1, 1)}, captions()[1]],
    "other sizes": [captions()[0], {**captions()[1], "image": image(40, 130)}],
}
SIZES = [(64, 96), (64, 96), (96, 64), (60, 70), (33, 33), (64, 96), (1, 1), (1, 200), (200, 1)]
VOCABULARIES = {
    "one name": NAMES[:1],
    "a name twice": ["dog", "dog"],
    "a very long name": ["dog " * 500, "cat"],
    "an empty name": ["", "cat"],
    "many names": [f"thing {i}" for i in range(1000)],
}


class DegenerateInputs:
    """The tests; see the module's docstring."""

    losses: dict[str, set[str]]
    """Supervision -> names of the losses. A model without "caption" refuses captions."""

    @pytest.fixture
    def model(self):
        """The model in training mode."""
        raise NotImplementedError

    @pytest.fixture
    def detector(self, model):
        """The same in evaluation mode, with `NAMES` and a threshold that some scores exceed."""
        model.set_vocabulary(NAMES)
        return model.eval()

    def check_losses(self, model, samples, names):
        losses = model(samples)
        assert set(losses) == names
        for name, loss in losses.items():
            assert loss.shape == (), name
            assert loss.isfinite(), name
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        return losses

    @pytest.mark.parametrize("supervision", ["detection", "grounding"])
    @pytest.mark.parametrize("batch", BATCHES)
    def test_losses_on_boxes(self, model, batch, supervision):
        samples = [{**s, "supervision": supervision} for s in BATCHES[batch]]
        losses = self.check_losses(model, samples, self.losses[supervision])
        if all(len(s["instances"]) == 0 for s in samples):
            assert losses.get("loss_box", 0) == 0
            assert losses.get("loss_centerness", 0) == 0

    @pytest.mark.parametrize("batch", CAPTIONS)
    def test_losses_on_captions(self, model, batch):
        if "caption" not in self.losses:
            with pytest.raises(UserError, match="no losses for the supervision 'caption'"):
                model(CAPTIONS[batch])
            return
        self.check_losses(model, CAPTIONS[batch], self.losses["caption"])

    @pytest.mark.parametrize("samples", [[sample()], captions()], ids=["boxes", "captions"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_training_stops_at_a_broken_image(self, model, samples, value):
        broken = samples[0]["image"].float()
        broken[0, 10, 10] = value
        samples = [{**samples[0], "image": broken}, *samples[1:]]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = SimpleTrainer(model, [samples], optimizer)
        learns = samples[0]["supervision"] in self.losses
        with pytest.raises(FloatingPointError if learns else UserError):
            trainer.train(0, 1)

    def test_a_batch_of_two_kinds_is_refused(self, model):
        with pytest.raises(
            ValueError, match=r"one supervision, but this one has \['caption', 'detection'\]"
        ):
            model([sample(), *captions()])

    def test_batched_equals_one_by_one(self, detector):
        """Images of equal size, of sizes with equal padding, and of others."""
        samples = [{"image": image(*size, seed=i)} for i, size in enumerate(SIZES)]
        together = detect(detector, samples)
        assert [found.image_size for found in together] == SIZES
        for one, found in zip(samples, together, strict=True):
            assert_same(found, detect(detector, [one])[0])
        assert sum(map(len, together)) > 50

    def test_no_image(self, detector):
        assert detector([]) == []

    @pytest.mark.parametrize("size", SIZES[-3:])
    def test_boxes_are_inside_of_the_smallest_images(self, detector, size):
        [found] = detect(detector, [{"image": image(*size)}])
        boxes = found.pred_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([size[1], size[0], size[1], size[0]])).all()
        assert found.pred_boxes.nonempty().all()

    def test_whole_numbers_and_fractions_are_one_image(self, detector):
        [a] = detect(detector, [{"image": image()}])
        [b] = detect(detector, [{"image": image().float()}])
        assert_same(a, b)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_broken_image_finds_nothing_and_leaves_others_alone(self, detector, value):
        broken = image().float()
        broken[0, 10, 10] = value
        found, other = detect(detector, [{"image": broken}, {"image": image(seed=1)}])
        assert found.pred_boxes.tensor.isfinite().all()
        assert found.scores.isfinite().all()
        assert_same(other, detect(detector, [{"image": image(seed=1)}])[0])

    @pytest.mark.parametrize("names", VOCABULARIES)
    def test_vocabularies(self, detector, names):
        names = VOCABULARIES[names]
        detector.set_vocabulary(names)
        [found] = detect(detector, [{"image": image()}])
        assert len(found) > 0
        assert found.scores.isfinite().all()
        assert found.pred_classes.max() < len(names)

    def test_no_name_finds_nothing(self, detector):
        [found, other] = detect(
            detector, [{"image": image(), "vocabulary": []}, {"image": image(seed=1)}]
        )
        assert len(found) == 0
        assert_same(other, detect(detector, [{"image": image(seed=1)}])[0])
