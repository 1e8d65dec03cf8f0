"""The predictor reports calibrated scores, and keeps what reaches the thresholds of labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.inference.calibration import GRID, Calibration
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.reported import reported
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers.color_model import draw_image, equal

IMAGE = draw_image(red=(4, 4, 20, 20), lime=(30, 4, 50, 20), blue=(4, 30, 20, 50))
HALF, SQUARE = GRID / 2, GRID**2


@pytest.fixture
def calibrated(colors):
    """Scores of the model: red 1, lime 1/2, blue 1/3; as reported: red 1/2, lime 1/4, blue 1/6,
    or squared."""

    def make(*maps, thresholds=None):
        encoded = colors.encode(["red", "lime", "blue"])
        stacked = np.stack([GRID, *maps]).astype(np.float32)
        of_label = (1, 2, 1) if len(maps) == 2 else (1, 1, 1)
        calibration = Calibration(stacked, of_label)
        return replace(encoded, calibration=calibration, thresholds=thresholds)

    return make


def scores(found):
    return {
        label: pytest.approx(score, abs=0.003)
        for label, score in zip(found.labels, found.scores.tolist(), strict=True)
    }


def test_scores_are_calibrated_and_the_best_come_first(colors, calibrated):
    found = colors(IMAGE, vocabulary=calibrated(0.2 * GRID, GRID))
    assert found.labels == ["lime", "red", "blue"]
    assert scores(found) == {"lime": 0.5, "red": 0.2, "blue": 0.2 / 3}
    assert found.scores.dtype == colors(IMAGE, vocabulary=["red"]).scores.dtype
    by_label = dict(zip(found.labels, found.pred_boxes.tensor.tolist(), strict=True))
    plain = colors(IMAGE, vocabulary=["red", "lime", "blue"])
    expected = dict(zip(plain.labels, plain.pred_boxes.tensor.tolist(), strict=True))
    assert by_label == expected


def test_thresholds_of_labels_take_the_place_of_the_models(colors, calibrated):
    vocabulary = calibrated(SQUARE, thresholds=(0.9, 0.3, 0.05))
    assert colors(IMAGE, vocabulary=vocabulary).labels == ["red", "blue"]
    colors = OpenVocabularyPredictor.from_model(
        colors.model,
        replace(colors.settings, thresholds=replace(colors.thresholds, score_threshold=0.9)),
    )
    assert colors(IMAGE, vocabulary=["red", "lime", "blue"]).labels == ["red"]
    assert colors(IMAGE, vocabulary=vocabulary).labels == ["red", "blue"]


def test_a_threshold_that_is_asked_for_is_one_of_calibrated_scores(colors, calibrated):
    vocabulary = calibrated(SQUARE, thresholds=(0.0, 0.0, 0.0))
    for asked, labels in [(0.05, ["red", "lime", "blue"]), (0.2, ["red", "lime"]), (0.3, ["red"])]:
        assert colors(IMAGE, vocabulary=vocabulary, score_threshold=asked).labels == labels
    low = calibrated(0.05 * GRID)  # below the model's threshold, 0.1
    assert len(colors(IMAGE, vocabulary=low, score_threshold=0.01)) == 3
    colors.asked = replace(colors.asked, score_threshold=0.3)  # as the constructor sets it
    assert colors(IMAGE, vocabulary=vocabulary).labels == ["red"]
    assert colors(IMAGE, vocabulary=vocabulary, score_threshold=0.2).labels == ["red", "lime"]


def test_images_of_a_batch_may_have_calibrated_and_other_vocabularies(colors, calibrated):
    sources = [
        calibrated(SQUARE, thresholds=(0.9, 0.3, 0.05)),
        ["red", "lime"],
        calibrated(HALF, thresholds=(0.0, 0.0, 0.4)),
        ["blue"],
        calibrated(SQUARE),
    ]
    together = colors([IMAGE] * 5, vocabularies=sources)
    alone = [colors(IMAGE, vocabulary=source) for source in sources]
    assert [list(one.labels) for one in together] == [
        ["red", "blue"],
        ["red", "lime"],
        ["red", "lime"],
        ["blue"],
        ["red", "lime", "blue"],
    ]
    assert all(map(equal, together, alone))


def test_nothing_found_stays_nothing(colors, calibrated):
    found = colors(draw_image(), vocabulary=calibrated(SQUARE, thresholds=(0.5, 0.5, 0.5)))
    assert len(found) == len(found.labels) == 0


def test_a_file_keeps_the_calibration(colors, calibrated, tmp_path):
    vocabulary = calibrated(SQUARE, HALF, thresholds=(0.9, 0.1, 0.05))
    path = tmp_path / "v.safetensors"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    np.testing.assert_array_equal(loaded.calibration.maps, vocabulary.calibration.maps)
    assert loaded.calibration.map_of_label == (1, 2, 1)
    assert loaded.thresholds == vocabulary.thresholds
    assert equal(colors(IMAGE, vocabulary=path), colors(IMAGE, vocabulary=vocabulary))


def test_other_embeddings_have_no_calibration(colors, calibrated):
    vocabulary = calibrated(SQUARE, thresholds=(0.9, 0.3, 0.05))
    again = vocabulary.encode(colors.model.encode_phrases, "colours")
    assert again.calibration is None
    assert again.thresholds is None


def test_a_model_that_reads_names_takes_no_calibration(colors, calibrated):
    colors.model.reads_names = True
    with pytest.raises(UserError, match="reads names: no calibration fits it"):
        colors.set_vocabulary(calibrated(SQUARE))


def found(*detections):
    """Instances of (class, score)."""
    classes, scores = zip(*detections, strict=True) if detections else ((), ())
    return Instances(
        (9, 9),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )


def test_thresholds_without_a_calibration(colors, tmp_path):
    vocabulary = colors.encode(["cat", "dog", "cow"])
    assert reported(found((0, 0.0)), vocabulary).scores.tolist() == [0]
    vocabulary = vocabulary.with_thresholds({"cow": 0.5, "cat": 0.25})
    assert vocabulary.thresholds == (0.25, 0.0, 0.5)
    vocabulary.save(tmp_path / "v.safetensors")
    loaded = Vocabulary.load(tmp_path / "v.safetensors")
    assert loaded == vocabulary
    kept = reported(found((0, 0.25), (0, 0.2), (2, 0.4), (1, 0.01), (2, 0.6)), loaded)
    assert kept.pred_classes.tolist() == [0, 1, 2]
    assert kept.scores.tolist() == pytest.approx([0.25, 0.01, 0.6])
    assert len(reported(found(), loaded)) == 0


def test_thresholds_are_of_the_labels_where_a_calibration_changes_the_order():
    calibration = Calibration(np.stack([GRID, GRID / 2]).astype(np.float32), (0, 1))
    names = Vocabulary.from_names(["a", "b"]).with_thresholds({"a": 0.6})
    found = Instances(
        (8, 8),
        pred_boxes=Boxes(torch.zeros(3, 4)),
        scores=torch.tensor([0.9, 0.8, 0.5]),
        pred_classes=torch.tensor([1, 0, 0]),
    )
    kept = reported(found, replace(names, calibration=calibration))
    assert kept.pred_classes.tolist() == [0, 1]
    assert kept.scores.tolist() == pytest.approx([0.8, 0.45])
