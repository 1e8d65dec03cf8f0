"""ATSS against a loop over boxes, levels and anchors, written from the paper's five steps."""

import math
import random
import statistics

import pytest
import torch
from detectron2.structures import Boxes
from fvcore.nn import giou_loss

from detclip2.modeling.assigners.atss import ATSSAssigner, shrink


def grid(width, height, stride, size):
    """Square anchors of a level, one a location, as lists."""
    return [
        [x - size / 2, y - size / 2, x + size / 2, y + size / 2]
        for y in [(i + 0.5) * stride for i in range(height // stride)]
        for x in [(i + 0.5) * stride for i in range(width // stride)]
    ]


LEVELS = [grid(128, 96, stride, 4 * stride) for stride in (8, 16, 32)]


def center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return overlap / (sum(areas) - overlap)


def slow_assignment(levels, boxes, top_k):
    """anchor -> box, by the five steps."""
    claims = {}
    for n, box in enumerate(boxes):
        candidates, first = [], 0
        for level in levels:
            nearest = sorted(
                range(len(level)), key=lambda k: math.dist(center(level[k]), center(box))
            )
            candidates += [(first + k, level[k]) for k in nearest[:top_k]]
            first += len(level)
        overlaps = [iou(anchor, box) for _, anchor in candidates]
        spread = statistics.stdev(overlaps) if len(overlaps) > 1 else 0
        threshold = statistics.mean(overlaps) + spread
        for (k, anchor), overlap in zip(candidates, overlaps, strict=True):
            x, y = center(anchor)
            if overlap >= threshold and box[0] < x < box[2] and box[1] < y < box[3]:
                claims.setdefault(k, []).append((overlap, n))
    return {k: max(claim)[1] for k, claim in claims.items()}


def assign(levels, boxes, top_k=9):
    anchors = [Boxes(torch.tensor(level)) for level in levels]
    assigned = ATSSAssigner(top_k)(anchors, Boxes(torch.tensor(boxes).reshape(-1, 4)))
    assert assigned.shape == (sum(map(len, levels)),)
    assert assigned.dtype == torch.int64
    return {k: n for k, n in enumerate(assigned.tolist()) if n != -1}


def random_boxes(seed, number, low=-40.0, high=160.0):
    """Boxes of all sizes, some of them partly or wholly outside the anchors."""
    rng = random.Random(seed)
    boxes = []
    for _ in range(number):
        x, y = rng.uniform(low, high), rng.uniform(low, high)
        boxes.append([x, y, x + rng.uniform(1, 80), y + rng.uniform(1, 80)])
    return boxes


@pytest.mark.parametrize("top_k", [1, 4, 9])
@pytest.mark.parametrize("number", [1, 5, 30])
def test_assignment_equals_the_loop(number, top_k):
    boxes = random_boxes(number, number, low=0, high=90)
    expected = slow_assignment(LEVELS, boxes, top_k)
    assert expected or number == 1
    assert assign(LEVELS, boxes, top_k) == expected


@pytest.mark.parametrize("seed", range(3))
def test_assignment_equals_the_loop_with_boxes_outside_the_anchors(seed):
    boxes = random_boxes(seed, 12)
    assert assign(LEVELS, boxes) == slow_assignment(LEVELS, boxes, 9)


@pytest.mark.parametrize("num_levels", [1, 3])
def test_one_anchor_a_level(num_levels):
    levels = [[[8.0 - s, 8.0 - s, 8.0 + s, 8.0 + s]] for s in (4.0, 8.0, 16.0)][:num_levels]
    boxes = [[1.0, 1.0, 14.0, 15.0], [40.0, 40.0, 50.0, 50.0]]
    expected = slow_assignment(levels, boxes, 9)
    assert assign(levels, boxes) == expected
    assert set(expected.values()) == {0}


def test_an_anchor_belongs_to_the_box_with_the_larger_iou():
    level = [[0.0, 0.0, 16.0, 16.0]]
    assert assign([level], [[2.0, 2.0, 14.0, 14.0], [1.0, 1.0, 15.0, 15.0]]) == {0: 1}
    assert assign([level], [[1.0, 1.0, 15.0, 15.0], [2.0, 2.0, 14.0, 14.0]]) == {0: 0}


def test_duplicate_boxes_share_the_anchors_of_one():
    box, other = random_boxes(0, 2, low=0, high=60)
    alone = assign(LEVELS, [box, other])
    twice = assign(LEVELS, [box, other, box])
    assert {k: n if n == 1 else 0 for k, n in twice.items()} == alone


def test_no_boxes_and_boxes_without_an_anchor_inside():
    assert assign(LEVELS, []) == {}
    assert assign(LEVELS, [[8.5, 8.5, 11.5, 11.5]]) == {}  # between the centres at 4 and 12
    assert assign(LEVELS, [[12.0, 12.0, 15.0, 15.0]]) == {}  # a centre on the edge is outside
    assert assign(LEVELS, [[500.0, 500.0, 600.0, 600.0]]) == {}
    assert assign(LEVELS, [[20.0, 20.0, 20.0, 60.0]]) == {}  # without area


def assignment_to_last_pixels(levels, boxes, top_k=9):
    """The five steps where a box holds its last pixels, as in the code of ATSS and GLIP.

    Widths are differences + 1, and a centre lies inside if it is more than 0.01 px from the edges.
    """

    def last(box):
        return [box[0], box[1], box[2] - 1, box[3] - 1]

    def overlap(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        common = max(width, 0) * max(height, 0)
        areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
        return common / (sum(areas) - common)

    claims = {}
    for n, box in enumerate(map(last, boxes)):
        candidates, first = [], 0
        for level in levels:
            own = list(map(last, level))
            nearest = sorted(range(len(own)), key=lambda k: math.dist(center(own[k]), center(box)))
            candidates += [(first + k, own[k]) for k in nearest[:top_k]]
            first += len(level)
        overlaps = [overlap(anchor, box) for _, anchor in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for (k, anchor), own_overlap in zip(candidates, overlaps, strict=True):
            x, y = center(anchor)
            distances = (x - box[0], y - box[1], box[2] - x, box[3] - y)
            if own_overlap >= threshold and min(distances) > 0.01:
                claims.setdefault(k, []).append((own_overlap, n))
    return {k: max(claim)[1] for k, claim in claims.items()}


@pytest.mark.parametrize("seed", range(5))
def test_an_inset_gives_the_targets_of_code_with_last_pixels(seed):
    rng = random.Random(seed)
    boxes = []
    for _ in range(20):  # small ones too, in which half a pixel decides
        x, y = rng.uniform(0, 100), rng.uniform(0, 80)
        boxes.append([x, y, x + rng.uniform(2, 40), y + rng.uniform(2, 40)])
    anchors = [Boxes(torch.tensor(level)) for level in LEVELS]
    found = ATSSAssigner(inset=0.5, margin=0.01)(anchors, Boxes(torch.tensor(boxes)))
    found = {k: n for k, n in enumerate(found.tolist()) if n != -1}
    assert found == assignment_to_last_pixels(LEVELS, boxes)


@pytest.mark.parametrize(("inset", "margin", "inside"), [(0, 0, 1), (0.2, 0, 1), (0.2, 0.2, 0)])
def test_the_inset_decides_where_a_centre_is_near_an_edge(inset, margin, inside):
    anchors = [Boxes(torch.tensor(LEVELS[0]))]
    box = Boxes(torch.tensor([[19.7, 19.7, 24.0, 24.0]]))  # 0.3 px from the centre (20, 20)
    found = ATSSAssigner(1, inset, margin)(anchors, box)
    assert (found >= 0).sum() == inside


def test_a_narrow_box_shrinks_to_nothing_and_not_beyond():
    """Turned inside out, a smaller prediction would have a smaller loss."""
    boxes = torch.tensor([[1.0, 1.0, 4.0, 1.5], [0.0, 0.0, 0.4, 6.0]])
    expected = torch.tensor([[1.5, 1.5, 3.5, 1.5], [0.5, 0.5, 0.5, 5.5]])
    assert torch.equal(shrink(boxes, 0.5), expected)
    sides = torch.tensor([0.2, 0.5, 1.0, 1.2, 3.0, 6.0])
    predicted = torch.stack([3 - sides / 2, 3 - sides / 2, 3 + sides / 2, 3 + sides / 2], dim=1)
    target = torch.tensor([0.0, 0.0, 6.0, 6.0]).expand_as(predicted)
    losses = giou_loss(shrink(predicted, 0.5), shrink(target, 0.5)).tolist()
    assert losses == sorted(losses, reverse=True)
