import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.evaluation.detections import (
    DETECTION,
    BestOfClasses,
    ByClass,
    best,
    detections_of,
    gather,
    order,
)


def random_detections(count, seed=0, num_classes=5, scores=1000):
    """Few distinct values, so that there are many ties."""
    rng = np.random.default_rng(seed)
    found = np.empty(count, DETECTION)
    found["image"] = rng.integers(10, size=count)
    found["category"] = rng.integers(num_classes, size=count)
    found["score"] = rng.integers(scores, size=count) / scores
    found["box"] = rng.integers(3, size=(count, 4))
    return found


def slow_order(found):
    """The same as a sort of tuples."""
    keys = [(-d["score"], d["image"], *d["box"].tolist()) for d in found]
    return sorted(range(len(found)), key=keys.__getitem__)


def as_tuples(found):
    return [(d["image"], d["category"], d["score"], *d["box"].tolist()) for d in found]


@pytest.mark.parametrize("scores", [3, 1000])
def test_order_is_by_score_then_image_then_box(scores):
    found = random_detections(200, scores=scores)
    assert as_tuples(found[order(found)]) == as_tuples(found[slow_order(found)])


@pytest.mark.parametrize("scores", [1, 3, 1000])
@pytest.mark.parametrize("limit", [0, 1, 50, 199, 200, 500])
def test_the_best_come_first(limit, scores):
    found = random_detections(200, scores=scores)
    expected = found[slow_order(found)[:limit]]
    assert sorted(as_tuples(best(found, limit))) == sorted(as_tuples(expected))


@pytest.mark.parametrize("block", [1, 64, 10_000])
@pytest.mark.parametrize("scores", [2, 1000])
def test_best_of_classes_does_not_depend_on_order_and_block_size(block, scores):
    found = random_detections(1000, scores=scores)
    expected = []
    for category in range(5):
        of_class = found[found["category"] == category]
        expected += as_tuples(of_class[slow_order(of_class)[:30]])
    for seed in range(2):
        shuffled = np.random.default_rng(seed).permutation(found)
        kept = BestOfClasses(30, block)
        for part in np.array_split(shuffled, 70):
            kept.add(part)
        assert sorted(as_tuples(kept.kept())) == sorted(expected)
    assert len(BestOfClasses(30).kept()) == 0


def test_memory_does_not_grow_with_the_input():
    """The input is four hundred times the kept size; memory stays within a few times that size."""
    kept = BestOfClasses(limit=50, block=500)
    held, given = 20 * 50 * DETECTION.itemsize, 0
    peak = 0
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    tracemalloc.start()
    for seed in range(800):
        part = random_detections(500, seed, num_classes=20)
        given += part.nbytes
        kept.add(part)
        del part
        if seed % 20 == 0:
            taken = tracemalloc.take_snapshot().filter_traces([arrays]).traces
            peak = max(peak, sum(trace.size for trace in taken))
    tracemalloc.stop()
    assert len(kept.kept()) == 20 * 50
    assert given == 400 * held
    assert held / 2 < peak < 10 * held


def test_parts_are_merged_before_truncation():
    found = random_detections(600)
    parts = [f[np.argsort(f["category"])] for f in (found[:100], found[100:100], found[100:])]
    merged = ByClass(parts, num_classes=6, limit=20)
    assert len(merged) == 6
    for category in range(6):
        of_class = found[found["category"] == category]
        expected = of_class[slow_order(of_class)[:20]]
        assert as_tuples(merged[category]) == as_tuples(expected)
    assert sum(len(part) for part in ByClass(parts, 6)) == 600
    with pytest.raises(IndexError):
        merged[6]


def test_detections_of_instances():
    instances = Instances(
        (50, 60),
        pred_boxes=Boxes(torch.tensor([[1.0, 2.0, 11.5, 22.25]])),
        scores=torch.tensor([0.3], dtype=torch.float16),
        pred_classes=torch.tensor([4]),
    )
    (found,) = detections_of(instances, 7)
    assert (found["image"], found["category"]) == (7, 4)
    assert found["box"].tolist() == [1, 2, 10.5, 20.25]
    assert found["score"] == np.float32(np.float16(0.3))
    assert DETECTION.itemsize == 32
    assert len(detections_of(instances[:0], 7)) == 0


def test_one_process_needs_no_files():
    found = random_detections(3)
    (same,) = gather(found, None, "name")
    assert same is found
