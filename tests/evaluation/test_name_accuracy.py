"""Name accuracy against a loop over boxes, and the input that it refuses."""

import json

import numpy as np
import pytest

from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
from detclip2.utils.errors import UserError
from tests.helpers import toy_splits


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def slow(truths, detections):
    """Correct, found and all boxes of each class."""
    counts = np.zeros((3, 3), int)
    for image, own, (x, y, w, h) in truths:
        best = None
        for name, score, box in detections[image]:
            overlap = iou((x, y, x + w, y + h), box)
            if overlap >= 0.5 and (best is None or (score, overlap) > best[:2]):
                best = score, overlap, name
        counts[own] += (best is not None and best[2] == own, best is not None, 1)
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_equals_a_loop_over_boxes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    truths, detections = [], {1: [], 2: [], 3: []}
    for image in (1, 2):
        for _ in range(12):
            x, y = rng.integers(0, 60, 2).tolist()
            w, h = rng.integers(10, 40, 2).tolist()
            truths.append((image, int(rng.integers(3)), [x, y, w, h]))
            for _ in range(int(rng.integers(4))):
                a, b, c, d = rng.integers(-5, 6, 4).tolist()
                box = [x + a, y + b, x + w + c, y + h + d]
                score = float(np.float32(rng.integers(1, 5) / 8))  # many are equal
                detections[image].append((int(rng.integers(3)), score, box))
    toy_splits.register(tmp_path, truths)
    evaluator = NameAccuracyEvaluator(toy_splits.NAME, output_dir=str(tmp_path / "out"))
    toy_splits.feed(evaluator, {image: detections[image] for image in (2, 3, 1)})
    results = evaluator.evaluate()["names"]
    counts = slow(truths, detections)
    right, found, total = counts.sum(axis=0)
    assert 0 < right < found < total
    assert results["accuracy"] == pytest.approx(100 * right / total)
    assert results["found"] == pytest.approx(100 * found / total)
    assert results["chance"] == pytest.approx(100 / 3)
    for split in ("base", "novel"):
        members = [n for n, own in enumerate(toy_splits.SPLITS) if own == split]
        right, _, total = counts[members].sum(axis=0)
        assert results[f"accuracy-{split}"] == pytest.approx(100 * right / total)
    written = json.loads((tmp_path / "out" / "name_accuracy.json").read_text())
    assert written["names"] == results
    evaluator.reset()
    with pytest.raises(UserError, match="no image"):
        evaluator.evaluate()


def test_accuracy_without_boxes_is_nan(tmp_path):
    toy_splits.register(tmp_path, [(1, 0, [10, 10, 20, 20])])
    evaluator = NameAccuracyEvaluator(toy_splits.NAME)
    toy_splits.feed(evaluator, {2: []})
    assert evaluator.evaluate()["names"]["accuracy"] != evaluator.evaluate()["names"]["accuracy"]
    toy_splits.feed(evaluator, {1: []})
    assert evaluator.evaluate()["names"]["accuracy"] == 0
    assert np.isnan(evaluator.evaluate()["names"]["accuracy-novel"])


@pytest.mark.parametrize(
    ("image", "found", "message"),
    [
        (9, [], "image 9, which is not in"),
        (1, [(0, float("nan"), [0, 0, 5, 5])], "not a finite number"),
    ],
)
def test_invalid_input_is_refused(tmp_path, image, found, message):
    toy_splits.register(tmp_path, [(1, 0, [10, 10, 20, 20])])
    with pytest.raises(UserError, match=message):
        toy_splits.feed(NameAccuracyEvaluator(toy_splits.NAME), {image: found})


def test_a_repeated_image_is_refused(tmp_path):
    toy_splits.register(tmp_path, [(1, 0, [10, 10, 20, 20])])
    evaluator = NameAccuracyEvaluator(toy_splits.NAME)
    for _ in range(2):
        toy_splits.feed(evaluator, {1: []})
    with pytest.raises(UserError, match="twice"):
        evaluator.evaluate()
