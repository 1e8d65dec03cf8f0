"""Regions of phrases against loops over regions and places."""

import copy

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from detclip2.inference.explain import explain, heat_maps
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import read_model_folder

CAPTION = "A man riding a red horse on the beach"
PHRASES = ["man", "red horse", "beach"]


@pytest.fixture(scope="module")
def nano(nano_folder):
    predictor = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    with torch.no_grad():  # away from initial weights, where all similarities are nearly one
        predictor.model.align.log_scale.fill_(3)
    return predictor


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def explanation(nano, photo):
    return explain(nano, photo, CAPTION)


@torch.no_grad()
def slow_choices(predictor, photo):
    """(box, probability) of each phrase, region by region."""
    model = predictor.model
    sample = {"image": predictor.resized(photo), "phrases": [CAPTION, *PHRASES]}
    sample.update(num_positives=len(sample["phrases"]), supervision="caption")
    text = model.encode_text([sample])
    outputs = model.encode_images(model.preprocess_image([sample]))
    index, valid = model.contrast.propose(outputs, text, model.align)
    height, width = sample["image"].shape[1:]
    for word in text.embeddings[1:]:
        best = None
        for k in index[0][valid[0]].tolist():
            score = model.align(outputs.regions[0, k : k + 1], word[None]).sigmoid().item()
            if best is None or score > best[1]:
                x1, y1, x2, y2 = outputs.boxes[0, k].tolist()
                x, y = photo.shape[1] / width, photo.shape[0] / height
                best = [x1 * x, y1 * y, x2 * x, y2 * y], score
        yield best


def test_each_phrase_has_its_best_proposal(nano, photo, explanation):
    assert explanation.caption == CAPTION
    assert explanation.phrases == PHRASES
    choices = list(slow_choices(nano, photo))
    assert len(choices) == len(explanation.boxes) == len(explanation.scores) == 3
    for box, score, (slow_box, slow_score) in zip(
        explanation.boxes, explanation.scores, choices, strict=True
    ):
        np.testing.assert_allclose(box, slow_box, atol=1e-3)
        assert score == pytest.approx(slow_score, abs=1e-5)
    np.testing.assert_array_equal(explanation.image, photo)


def test_heat_covers_the_resized_image(nano, photo, explanation):
    height, width = nano.resized(photo).shape[1:]
    assert explanation.heat.shape == (3, height, width)
    with torch.no_grad():
        images = nano.model.preprocess_image([{"image": nano.resized(photo)}])
        outputs = nano.model.encode_images(images)
        words = nano.model.encode_phrases(PHRASES)
        highest = nano.model.align(outputs.regions[0], words).sigmoid().amax(dim=0).numpy()
    found = explanation.heat.max(axis=(1, 2))
    assert (found <= highest + 1e-6).all()
    # The pixel next to a centre is half a pixel away, of at least 8 to the next centre.
    assert (found >= (15 / 16) ** 2 * highest).all()
    assert (explanation.heat >= 0).all()


def test_repeated_calls_are_equal(nano, photo, explanation):
    again = explain(nano, photo, CAPTION)
    for field in ("boxes", "scores", "heat"):
        np.testing.assert_array_equal(getattr(again, field), getattr(explanation, field))


def test_explanations_as_instances(explanation):
    instances = explanation.instances()
    assert instances.image_size == (60, 80)
    assert instances.labels == PHRASES
    assert instances.pred_classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(instances.pred_boxes.tensor, explanation.boxes)


def test_own_phrases_and_a_caption_that_is_a_phrase(nano, photo):
    own = explain(nano, photo, CAPTION, phrases=["Sky", " sky ", "red horse"])
    assert own.phrases == ["Sky", "red horse"]
    whole = explain(nano, photo, "Red Apple")
    assert whole.phrases == ["red apple"]
    assert whole.boxes.shape == (1, 4)


def test_a_model_without_contrast_explains_as_the_default_one(nano, photo, explanation):
    model = copy.deepcopy(nano.model)
    model.contrast = None
    without = OpenVocabularyPredictor.from_model(model, nano.settings)
    np.testing.assert_array_equal(explain(without, photo, CAPTION).boxes, explanation.boxes)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_images(nano, size):
    found = explain(nano, np.zeros((*size, 3), np.uint8), CAPTION)
    assert np.isfinite(found.boxes).all()
    assert found.image.shape == (*size, 3)


@pytest.mark.parametrize("caption", ["", " \n", "\u200b"])
def test_an_empty_caption(nano, photo, caption):
    with pytest.raises(UserError, match="the caption is empty"):
        explain(nano, photo, caption)


def test_a_caption_without_noun_phrase(nano, photo):
    with pytest.raises(UserError, match="no noun phrase in 'and so on'"):
        explain(nano, photo, "and so on")
    with pytest.raises(UserError, match="no noun phrase"):
        explain(nano, photo, CAPTION, phrases=[])


def test_broken_weights(nano_folder, photo):
    broken = OpenVocabularyPredictor(*read_model_folder(nano_folder), device="cpu")
    with torch.no_grad():
        broken.model.head.box.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="proposes no region"):
        explain(broken, photo, CAPTION)


def anchors_of(stride, rows, columns):
    centers = [
        ((x + 0.5) * stride, (y + 0.5) * stride) for y in range(rows) for x in range(columns)
    ]
    half = 4 * stride
    return Boxes(torch.tensor([[x - half, y - half, x + half, y + half] for x, y in centers]))


def slow_heat(grid, stride, x, y):
    """Bilinear between the four nearest centres, by hand; constant beyond the last ones."""
    rows, columns = grid.shape
    u = min(max((x + 0.5) / stride - 0.5, 0), columns - 1)
    v = min(max((y + 0.5) / stride - 0.5, 0), rows - 1)
    left, top = int(u), int(v)
    right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
    above = grid[top, left] * (1 - u + left) + grid[top, right] * (u - left)
    below = grid[bottom, left] * (1 - u + left) + grid[bottom, right] * (u - left)
    return above * (1 - v + top) + below * (v - top)


def test_heat_equals_a_loop_over_locations():
    height, width = 20, 30  # padded to 32 x 32; the coarse level is beyond that
    shapes = [(8, 4, 4), (16, 2, 2), (64, 1, 1)]
    generator = torch.Generator().manual_seed(0)
    grids = [torch.rand(2, rows, columns, generator=generator) for _, rows, columns in shapes]
    similarity = torch.cat([grid.flatten(1) for grid in grids], dim=1).T
    anchors = [anchors_of(*shape) for shape in shapes]
    heat = heat_maps(similarity, anchors, (height, width))
    assert heat.shape == (2, height, width)
    for m in range(2):
        for y in range(height):
            for x in range(width):
                expected = max(
                    slow_heat(grid[m], stride, x, y).item()
                    for grid, (stride, _, _) in zip(grids, shapes, strict=True)
                )
                assert heat[m, y, x] == pytest.approx(expected, abs=1e-5)
