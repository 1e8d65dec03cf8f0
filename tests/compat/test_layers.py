"""ShapeSpec and batched_nms."""

import pytest
import torch
from detectron2.layers import ShapeSpec, batched_nms


def slow_nms(boxes, scores, classes, threshold):
    kept = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(
            classes[index] != classes[other] or iou(boxes[index], boxes[other]) <= threshold
            for other in kept
        ):
            kept.append(index)
    return kept


def iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_batched_nms_is_nms_in_each_class(threshold):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(60, 2, generator=generator) * 20], dim=1)
    scores = torch.rand(60, generator=generator)
    classes = torch.randint(0, 3, (60,), generator=generator)
    expected = slow_nms(boxes.tolist(), scores.tolist(), classes.tolist(), threshold)
    assert batched_nms(boxes, scores, classes, threshold).tolist() == expected
    assert len(expected) < 60 or threshold == 0.9


def test_batched_nms_of_half_boxes_and_of_none():
    boxes = torch.tensor([[0, 0, 900, 900], [0, 0, 899, 900], [0, 0, 900, 900]]).half()
    scores, classes = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([1000, 1000, 1202])
    assert batched_nms(boxes, scores, classes, 0.5).tolist() == [1, 2]
    none = torch.zeros(0)
    assert batched_nms(torch.zeros(0, 4), none, none.long(), 0.5).numel() == 0


def test_batched_nms_needs_four_numbers_a_box():
    with pytest.raises(AssertionError):
        batched_nms(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), 0.5)


def test_shape_spec():
    assert ShapeSpec(3, stride=8) == ShapeSpec(channels=3, height=None, width=None, stride=8)
