"""ATSS: assignment of boxes to anchors (arXiv 1912.02424, algorithm 1)."""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


class ATSSAssigner:
    """Adaptive training sample selection, with one anchor a location.

    1. On each level take the ``top_k`` anchors whose centres are nearest to the box's centre.
    2. Compute the IoU of these candidates with the box.
    3. The box's threshold is the mean plus the standard deviation of these IoUs.
    4. Positives are the candidates at or above it whose centre lies inside the box.
    5. An anchor claimed by several boxes goes to the one it overlaps most.

    Args:
        top_k: candidates a level, 9 in ATSS.
        inset: px by which a box is smaller on each side where its inside matters: in step 4, and in
            the box and centerness losses. 0.5 gives the targets of code that counts a box's last
            pixel as its right and lower edge, as that of ATSS and GLIP.
        margin: how far inside, px, a centre must lie; more than 0, of which that code has 0.01.
    """

    def __init__(self, top_k: int = 9, inset: float = 0.0, margin: float = 0.0) -> None:
        self.top_k = top_k
        self.inset = inset
        self.margin = margin

    @torch.no_grad()
    def __call__(self, anchors: list[Boxes], boxes: Boxes) -> Tensor:
        """Assign boxes to anchors.

        Args:
            anchors: one entry a level, K anchors in all, absolute pixels.
            boxes: the N boxes of one image, absolute pixels.

        Returns:
            (K,) int64: index of the box of each anchor, -1 for background. All are -1 without
            boxes. A box may get no anchor when others overlap its candidates more.
        """
        all_anchors = Boxes.cat(anchors)
        num_anchors, num_boxes = len(all_anchors), len(boxes)
        assigned = torch.full((num_anchors,), -1, dtype=torch.int64, device=all_anchors.device)
        if num_boxes == 0:
            return assigned
        candidates = self._nearest(anchors, boxes)  # 1. (J, N)
        iou = pairwise_iou(all_anchors, boxes)  # (K, N)
        candidate_iou = iou.gather(0, candidates)  # 2. (J, N)
        threshold = candidate_iou.mean(0) + _std(candidate_iou)  # 3. (N,)
        centers = all_anchors.get_centers()[candidates]  # (J, N, 2)
        edges = shrink(boxes.tensor, self.inset + self.margin)
        inside = ((centers > edges[:, :2]) & (centers < edges[:, 2:])).all(-1)
        positive = (candidate_iou >= threshold) & inside  # 4. (J, N)
        claims = torch.full_like(iou, -1.0)
        claims.scatter_(0, candidates, torch.where(positive, candidate_iou, -1.0))
        best_iou, best_box = claims.max(dim=1)  # 5. (K,)
        return torch.where(best_iou >= 0, best_box, assigned)

    def _nearest(self, anchors: list[Boxes], boxes: Boxes) -> Tensor:
        """(J, N): indices of the nearest anchors of every level, J = sum of min(top_k, K_l)."""
        nearest, first = [], 0
        for level in anchors:
            distance = torch.cdist(level.get_centers(), boxes.get_centers())  # (K_l, N)
            top_k = min(self.top_k, len(level))
            nearest.append(distance.topk(top_k, dim=0, largest=False).indices + first)
            first += len(level)
        return torch.cat(nearest)


def shrink(boxes: Tensor, inset: float) -> Tensor:
    """(P, 4) boxes, XYXY px, smaller by ``inset`` px on each side; narrow ones have width 0."""
    if inset == 0:
        return boxes
    smallest, largest = (boxes + boxes.new_tensor([inset, inset, -inset, -inset])).chunk(2, dim=1)
    return torch.cat([smallest, torch.maximum(smallest, largest)], dim=1)


def _std(iou: Tensor) -> Tensor:
    """Standard deviation over candidates; 0 for a single one, for which it is undefined."""
    return iou.std(0) if len(iou) > 1 else torch.zeros_like(iou[0])
