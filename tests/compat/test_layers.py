"""ShapeSpec, batched_nms and paste_masks_in_image."""

import math

import detectron2
import pytest
import torch
from detectron2.layers import ShapeSpec, batched_nms, paste_masks_in_image
from detectron2.structures import Boxes


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


def slow_paste(mask, box, height, width):
    """The mask at each pixel's centre, bilinear between the centres of its cells, 0 outside."""
    size = len(mask)
    x0, y0, x1, y1 = box
    pasted = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            y = (row + 0.5 - y0) / (y1 - y0) * size - 0.5
            x = (column + 0.5 - x0) / (x1 - x0) * size - 0.5
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < size and 0 <= j < size:
                        share = (1 - abs(y - i)) * (1 - abs(x - j))
                        pasted[row, column] += share * float(mask[i, j])
    return pasted


BOXES = [[2.0, 3.0, 17.5, 9.25], [-4.0, -3.0, 6.0, 30.0], [18.0, 12.0, 19.0, 13.0]]


def test_masks_are_pasted_bilinearly():
    masks = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(BOXES)
    expected = torch.stack([slow_paste(m, b, 14, 20) for m, b in zip(masks, BOXES, strict=True)])
    pasted = paste_masks_in_image(masks, Boxes(boxes), (14, 20), threshold=0.5)
    assert pasted.dtype == torch.bool
    clear = (expected - 0.5).abs() > 1e-4
    assert torch.equal(pasted[clear], (expected >= 0.5)[clear])
    assert 0.05 < float(pasted.float().mean()) < 0.9
    grey = paste_masks_in_image(masks, boxes, (14, 20), threshold=-1)
    assert grey.dtype == torch.uint8
    inside = torch.zeros_like(pasted)  # what is around a box depends on the device
    inside[0, 3:9, 2:17] = inside[1, :, :6] = inside[2, 12, 18] = True
    assert (grey.float() - expected * 255).abs()[inside].max() <= 1


def test_pasting_none_and_outside():
    assert paste_masks_in_image(torch.zeros(0, 7, 7), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    try:  # an error in Detectron2 on a CPU
        outside = paste_masks_in_image(torch.ones(1, 7, 7), Boxes([[50, 50, 60, 60]]), (5, 6))
    except RuntimeError:
        assert "subset" not in detectron2.__version__
    else:
        assert not outside.any()
    with pytest.raises(AssertionError, match=r"[Ss]quare"):
        paste_masks_in_image(torch.ones(1, 7, 8), Boxes([[0, 0, 5, 5]]), (5, 6))
