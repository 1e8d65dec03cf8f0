"""From similarities and boxes to detections."""

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor

from detclip2.modeling.alignment import Alignment


class PostProcess:
    """Scores, thresholds, non-maximum suppression, and the best detections of an image.

    The score of a box with a name is sqrt(sigmoid(S) * sigmoid(centerness)), in [0, 1]: the
    geometric mean keeps scores on the scale of a probability and orders boxes as ATSS's product.

    Args:
        score_threshold: detections below this score are dropped.
        nms_threshold: of two boxes with a higher IoU the one with the lower score is dropped.
        class_agnostic_nms: compare boxes of all names, not only of the same name.
        max_candidates: how many (box, name) pairs enter the suppression.
        max_detections: how many leave it.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        class_agnostic_nms: bool = False,
        max_candidates: int = 3000,
        max_detections: int = 300,
    ) -> None:
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.class_agnostic_nms = class_agnostic_nms
        self.max_candidates = max_candidates
        self.max_detections = max_detections

    def __call__(
        self,
        regions: Tensor,
        deltas: Tensor,
        centerness: Tensor,
        anchors: Tensor,
        vocabulary: Tensor,
        align: Alignment,
        decode: Box2BoxTransform,
        image_size: tuple[int, int],
    ) -> Instances:
        """Detections of one image.

        Args:
            regions: (K, D) embeddings.
            deltas: (K, 4).
            centerness: (K,) logits.
            anchors: (K, 4) XYXY px.
            vocabulary: (C, D) phrase embeddings.
            align: gives S.
            decode: deltas and anchors to boxes.
            image_size: height and width of the image that the boxes are clipped to, px.

        Returns:
            Instances with ``pred_boxes``, ``scores`` (descending) and ``pred_classes`` in [0, C).
        """
        centerness = centerness.float().sigmoid()
        floor = self.score_threshold**2
        # sqrt(p * c) > t needs c > t^2 and p > t^2 / c: most anchors and names drop out before
        # any sigmoid, and the result is the same.
        alive = (centerness > floor).nonzero().squeeze(1)
        centerness = centerness[alive]
        logits = align(regions[alive], vocabulary).float()
        anchor, name = (logits > torch.logit(floor / centerness)[:, None]).nonzero(as_tuple=True)
        scores = (logits[anchor, name].sigmoid() * centerness[anchor]).sqrt()
        if len(scores) > self.max_candidates:
            scores, best = scores.topk(self.max_candidates)
            anchor, name = anchor[best], name[best]
        anchor = alive[anchor]
        boxes = Boxes(decode.apply_deltas(deltas[anchor].float(), anchors[anchor]))
        boxes.clip(image_size)
        groups = torch.zeros_like(name) if self.class_agnostic_nms else name
        keep = batched_nms(boxes.tensor, scores, groups, self.nms_threshold)
        keep = keep[boxes[keep].nonempty()][: self.max_detections]
        return Instances(
            image_size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=name[keep]
        )
