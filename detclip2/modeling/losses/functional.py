"""Losses on boxes as functions: alignment (focal), box (GIoU), centerness (sec. 3.3, eq. 6)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops.giou_loss import generalized_box_iou_loss


def alignment_loss(
    logits: Tensor,
    positives: tuple[Tensor, Tensor, Tensor],
    negatives_valid: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sigmoid focal loss between all regions and all phrases of the batch, summed.

    Every pair first counts as a negative; the few positives are then corrected. This needs no dense
    target of the size of ``logits``. Unmatched pairs count only if ``negatives_valid`` allows it.

    Args:
        logits: (B, K, M) similarities S.
        positives: three (P,) index tensors (image, region, phrase) of matching pairs, distinct.
        negatives_valid: (B, M) bool: whether unmatched regions of an image are not this phrase.
        alpha: weight of positives, 1 - alpha that of negatives (0.25, default of ATSS).
        gamma: focusing exponent (2, default of ATSS).

    Returns:
        A scalar >= 0.
    """
    logits = logits.float()
    as_negative = (1 - alpha) * logits.sigmoid().pow(gamma) * F.softplus(logits)
    total = (as_negative.sum(1) * negatives_valid).sum()
    chosen = logits[positives]
    image, _, phrase = positives
    counted = negatives_valid[image, phrase]
    wrongly = (1 - alpha) * chosen.sigmoid().pow(gamma) * F.softplus(chosen) * counted
    rightly = alpha * (-chosen).sigmoid().pow(gamma) * F.softplus(-chosen)
    return total + (rightly - wrongly).sum()


def box_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """GIoU loss, weighted, summed.

    Args:
        predicted: (P, 4) boxes of positive anchors, XYXY px.
        target: (P, 4) their assigned boxes, XYXY px.
        weight: (P,) centerness targets: central anchors count more (as ATSS).
    """
    return (generalized_box_iou_loss(predicted.float(), target.float()) * weight).sum()


def quality_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, summed, of (P,) logits with (P,) targets in [0, 1].

    The target is the quality of an anchor's position (centerness) or of its box (IoU).
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="sum")


def centerness_target(centers: Tensor, boxes: Tensor) -> Tensor:
    """Centerness of locations in their boxes (FCOS, eq. 3).

    Args:
        centers: (P, 2) anchor centres, px, strictly inside their boxes.
        boxes: (P, 4) XYXY px.

    Returns:
        (P,) in (0, 1]: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).
    """
    before = centers - boxes[:, :2]
    after = boxes[:, 2:] - centers
    ratios = torch.minimum(before, after) / torch.maximum(before, after)
    return ratios.clamp(min=0).prod(dim=1).sqrt()


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Two (P, 4) sets of boxes, XYXY px -> (P,) IoU in [0, 1] of the two boxes of each row."""
    corner = torch.maximum(boxes[:, :2], others[:, :2])
    opposite = torch.minimum(boxes[:, 2:], others[:, 2:])
    common = (opposite - corner).clamp(min=0).prod(dim=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common)
