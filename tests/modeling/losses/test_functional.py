"""Box losses against torchvision and closed forms."""

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from detclip2.modeling.losses.functional import (
    alignment_loss,
    box_loss,
    centerness_target,
    paired_iou,
    quality_loss,
)

B, K, M = 3, 7, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_focal_loss(logits, positives, negatives_valid, alpha, gamma):
    targets = torch.zeros_like(logits)
    targets[positives] = 1
    counts = negatives_valid[:, None, :] | (targets == 1)
    return (sigmoid_focal_loss(logits, targets, alpha, gamma) * counts).sum()


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
@pytest.mark.parametrize("num_positives", [0, 1, 20])
@pytest.mark.parametrize("share_valid", [0.0, 0.5, 1.0])
def test_alignment_equals_torchvisions_focal_loss(alpha, gamma, num_positives, share_valid):
    generator = torch.Generator().manual_seed(num_positives)
    chosen = torch.randperm(B * K * M, generator=generator)[:num_positives]
    positives = torch.unravel_index(chosen, (B, K, M))
    valid = torch.rand(B, M, generator=generator) < share_valid
    logits = (3 * normal(B, K, M)).float().requires_grad_()
    loss = alignment_loss(logits, positives, valid, alpha, gamma)
    expected = dense_focal_loss(logits, positives, valid, alpha, gamma)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    )
    if num_positives == 0 and share_valid == 0:
        assert loss == 0


@pytest.mark.parametrize("shape", [(B, K, 0), (B, 0, M), (0, K, M)])
def test_alignment_of_nothing_is_zero(shape):
    nothing = torch.empty(0, dtype=torch.int64)
    logits = torch.zeros(shape, requires_grad=True)
    valid = torch.ones(shape[0], shape[2], dtype=torch.bool)
    loss = alignment_loss(logits, (nothing, nothing, nothing), valid)
    loss.backward()
    assert loss == 0


def test_alignment_of_extreme_logits_is_finite_and_correct():
    logits = torch.tensor([[[300.0, -300.0]]], requires_grad=True)
    valid = torch.ones(1, 2, dtype=torch.bool)
    zero = torch.tensor([0])
    right = alignment_loss(logits, (zero, zero, zero), valid)
    wrong = alignment_loss(logits, (zero, zero, zero + 1), valid)
    assert right == 0
    # 1 - alpha of the negative at 300, alpha of the positive at -300
    torch.testing.assert_close(wrong, torch.tensor(0.75 * 300 + 0.25 * 300))
    wrong.backward()
    assert logits.grad.isfinite().all()


def test_alignment_is_computed_in_single_precision():
    logits = normal(B, K, M)
    valid = torch.ones(B, M, dtype=torch.bool)
    positives = tuple(torch.tensor([[0], [1], [2]]))
    half = logits.bfloat16()
    assert alignment_loss(half, positives, valid).dtype == torch.float32
    assert alignment_loss(half, positives, valid) == alignment_loss(half.float(), positives, valid)


def random_boxes(number, seed):
    corners = 40 * torch.rand(number, 2, generator=torch.Generator().manual_seed(seed))
    sides = 1 + 30 * torch.rand(number, 2, generator=torch.Generator().manual_seed(seed + 1))
    return torch.cat([corners, corners + sides], dim=1)


def test_box_loss_equals_torchvisions_giou():
    predicted, target, weight = random_boxes(30, 0), random_boxes(30, 5), normal(30).abs().float()
    giou = generalized_box_iou(predicted, target).diagonal()
    torch.testing.assert_close(box_loss(predicted, target, weight), ((1 - giou) * weight).sum())
    assert box_loss(target, target, weight).item() == pytest.approx(0, abs=1e-4)
    assert box_loss(target[:0], target[:0], weight[:0]) == 0


def test_box_loss_of_boxes_without_area_is_finite():
    predicted = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    loss = box_loss(predicted, torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.ones(1))
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize(
    ("center", "expected"),
    [
        ((10, 20), 1),  # the middle
        ((5, 20), math.sqrt(5 / 15)),
        ((10, 39), math.sqrt(1 / 39)),
        ((15, 10), math.sqrt((5 / 15) * (10 / 30))),
        ((0, 20), 0),  # on the edge
    ],
)
def test_centerness_in_closed_form(center, expected):
    box = torch.tensor([[0.0, 0.0, 20.0, 40.0]])
    target = centerness_target(torch.tensor([center], dtype=torch.float32), box)
    assert target.tolist() == pytest.approx([expected])
    # neither position nor scale matters
    moved = 3 * torch.tensor([center], dtype=torch.float32) + 7
    assert centerness_target(moved, 3 * box + 7).tolist() == pytest.approx([expected], abs=1e-6)


def test_quality_loss_equals_cross_entropy():
    logits, target = normal(9).float(), normal(9, seed=1).float().sigmoid()
    p = logits.sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    torch.testing.assert_close(quality_loss(logits, target), expected)
    assert quality_loss(logits[:0], target[:0]) == 0


def test_paired_iou_equals_torchvision():
    boxes, others = random_boxes(30, 0), random_boxes(30, 5)
    others[0] = boxes[0]
    others[1] = boxes[1] + 100  # disjoint
    expected = box_iou(boxes, others).diagonal()
    assert expected[:2].tolist() == [1, 0]
    torch.testing.assert_close(paired_iou(boxes, others), expected)
    assert paired_iou(boxes[:0], others[:0]).shape == (0,)
