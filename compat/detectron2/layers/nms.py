"""Non-maximum suppression."""

import torch
from torchvision.ops import boxes as box_ops

__all__ = ["batched_nms"]


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
):
    """Non-maximum suppression in each class on its own.

    Args:
        boxes: (N, 4) XYXY.
        scores: (N,).
        idxs: (N,) class of each box.
        iou_threshold: of two boxes of a class that share more than this, the better one stays.

    Returns:
        Indices of the boxes that stay, best first.
    """
    assert boxes.shape[-1] == 4
    # In float32 also where the scores are half: coordinates get shifted by class.
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
