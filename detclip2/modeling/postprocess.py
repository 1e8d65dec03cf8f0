"""From similarities and boxes to detections."""

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

from detclip2.modeling.alignment import Align

PAIRS_AT_ONCE = {"cpu": 2**21, "cuda": 2**23}
"""(anchor, name) pairs whose S is in memory at a time, by the device."""
NAMES_AT_ONCE = {"cpu": 2**10, "cuda": 2**15}
"""Of them, names. On a CPU such a block stays in the cache, which all that is done with S reads it
from; on a GPU it would only be more kernels to start."""


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
        align: Align,
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
        scores, anchor, name = self.candidates(regions, centerness, vocabulary, align)
        boxes = Boxes(decode.apply_deltas(deltas[anchor].float(), anchors[anchor]))
        boxes.clip(image_size)
        groups = torch.zeros_like(name) if self.class_agnostic_nms else name
        keep = batched_nms(boxes.tensor, scores, groups, self.nms_threshold)
        keep = keep[boxes[keep].nonempty()][: self.max_detections]
        return Instances(
            image_size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=name[keep]
        )

    def candidates(
        self, regions: Tensor, centerness: Tensor, vocabulary: Tensor, align: Align
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best ``max_candidates`` pairs of an anchor and a name above the threshold.

        S is made for some anchors and names at a time: memory does not grow with K times C.

        Returns:
            scores, anchors in [0, K) and names in [0, C), one each a pair.
        """
        centerness = centerness.float().sigmoid()
        floor = self.score_threshold**2
        # sqrt(p * c) > t needs c > t^2 and p > t^2 / c: most anchors and names drop out before
        # any sigmoid, and the result is the same.
        alive = (centerness > floor).nonzero().squeeze(1)
        scores, of_anchor, of_name = centerness[:0], alive[:0], alive[:0]
        if len(vocabulary) == 0:
            return scores, of_anchor, of_name
        kind = regions.device.type
        pairs, names = PAIRS_AT_ONCE.get(kind, 2**23), NAMES_AT_ONCE.get(kind, 2**15)
        blocks = align.blocks(vocabulary, names)
        for part in alive.split(max(pairs // min(len(vocabulary), names), 1)):
            of_part = regions[part]
            for first, similarity in blocks:
                logits = similarity(of_part).float()
                row, name = _above(logits, torch.logit(floor / centerness[part]))
                anchors = part[row]
                found = (logits[row, name].sigmoid() * centerness[anchors]).sqrt()
                scores = torch.cat([scores, found])
                of_anchor = torch.cat([of_anchor, anchors])
                of_name = torch.cat([of_name, name + first])
                if len(scores) > self.max_candidates:
                    scores, best = scores.topk(self.max_candidates)
                    of_anchor, of_name = of_anchor[best], of_name[best]
                    # Later pairs must be better than the last of these; the rest is for rounding.
                    floor = max(floor, float(scores[-1]) ** 2 * (1 - 1e-6))
        return scores, of_anchor, of_name


def _above(logits: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the (K, C) logits that are above the ``lowest`` (K,) of their rows.

    Most rows have none, which their best one tells in a single pass. "Not below", because a name
    whose S is no number hides the others of its anchor.
    """
    some = (~(logits.amax(dim=1) <= lowest)).nonzero().squeeze(1)
    row, column = (logits[some] > lowest[some, None]).nonzero(as_tuple=True)
    return some[row], column


class TopKPerPhrase(PostProcess):
    """The best boxes of every name, however low their scores: for names known to be in the image.

    Phrase grounding asks where a phrase is, not whether. Names do not compete: what is found for
    one does not depend on which others are asked for. Scores as in :class:`PostProcess`.

    Args:
        nms_threshold: of two boxes of a name with a higher IoU the one with the lower score goes.
        max_candidates: how many boxes of a name enter the suppression.
        max_detections: how many of a name leave it.
    """

    def __init__(
        self, nms_threshold: float = 0.6, max_candidates: int = 1000, max_detections: int = 10
    ) -> None:
        super().__init__(
            score_threshold=0.0,
            nms_threshold=nms_threshold,
            max_candidates=max_candidates,
            max_detections=max_detections,
        )

    def __call__(
        self,
        regions: Tensor,
        deltas: Tensor,
        centerness: Tensor,
        anchors: Tensor,
        vocabulary: Tensor,
        align: Align,
        decode: Box2BoxTransform,
        image_size: tuple[int, int],
    ) -> Instances:
        """As of :class:`PostProcess`; at most ``max_detections`` for each of the C names."""
        # A box that is not finite becomes one without area, and goes with those.
        boxes = Boxes(decode.apply_deltas(deltas.float(), anchors).nan_to_num(0, 0, 0))
        boxes.clip(image_size)
        has_area = boxes.nonempty()
        boxes = boxes[has_area]
        scores = align(regions[has_area], vocabulary).float().sigmoid()  # (K, C)
        scores = (scores * centerness[has_area].float().sigmoid()[:, None]).sqrt()
        kept = torch.full_like(scores, -1)  # -1: not kept
        for of_name, kept_of_name in zip(scores.nan_to_num(-1).T, kept.T, strict=True):
            best, candidate = of_name.topk(min(self.max_candidates, len(of_name)))
            keep = nms(boxes[candidate].tensor, best, self.nms_threshold)[: self.max_detections]
            kept_of_name[candidate[keep]] = best[keep]
        anchor, name = (kept >= self.score_threshold).nonzero(as_tuple=True)
        best_first = kept[anchor, name].argsort(descending=True, stable=True)
        anchor, name = anchor[best_first], name[best_first]
        return Instances(
            image_size, pred_boxes=boxes[anchor], scores=kept[anchor, name], pred_classes=name
        )
