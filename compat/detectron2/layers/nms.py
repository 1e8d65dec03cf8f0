"""Non-maximum suppression."""

import torch
from torchvision.ops import boxes as box_ops

__all__ = ["batched_nms"]


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
):
    """Non-maximum suppression in each class separately.

    Args:
        boxes: (N, 4) XYXY.
        scores: (N,).
        idxs: (N,) class of each box.
        iou_threshold: of two boxes of a class that share more than this, the better one stays.

    Returns:
        Indices of the boxes that stay, best first.
    """
    if boxes.shape[-1] != 4:
        raise AssertionError(f"Boxes have 4 numbers, not {boxes.shape[-1]}.")
    # torchvision shifts the boxes of each class apart, for which half precision is too coarse.
    return box_ops.batched_nms(boxes.to(torch.float32), scores, idxs, iou_threshold)
