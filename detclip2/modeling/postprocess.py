"""Post-processing: from similarities and boxes to detections."""

from typing import Any

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops.boxes import nms

from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.text.text_bank import VocabularyState
from detclip2.modeling.thresholds import DetectionThresholds

PAIRS_AT_ONCE = {"cpu": 2**21, "cuda": 2**23}
"""Device type -> maximum (anchor, name) pairs whose S is in memory at a time."""
NAMES_AT_ONCE = {"cpu": 2**10, "cuda": 2**15}
"""Device type -> maximum names among these pairs. On a CPU a chunk of S of this size stays in the
cache; on a GPU smaller chunks only mean more kernel launches."""


class Thresholded:
    """Has thresholds of its own, which a call may override."""

    thresholds: DetectionThresholds

    def resolved(self, thresholds: DetectionThresholds | None) -> Any:
        """These thresholds, with this object's own in place of None."""
        return self.thresholds if thresholds is None else thresholds.or_else(self.thresholds)


class PostProcess(Thresholded):
    """Scores, thresholds, non-maximum suppression, and the best detections of an image.

    The score of a box with a name is sqrt(sigmoid(S) * sigmoid(centerness)), in [0, 1]: the
    geometric mean keeps scores on the scale of a probability and orders boxes as ATSS's product.

    Args:
        score_threshold: see `DetectionThresholds`.
        nms_threshold: see `DetectionThresholds`.
        class_agnostic_nms: see `DetectionThresholds`.
        max_candidates: how many (box, name) pairs enter the suppression; more, if a call asks for
            more detections.
        max_detections: see `DetectionThresholds`.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        class_agnostic_nms: bool = False,
        max_candidates: int = 3000,
        max_detections: int = 300,
    ) -> None:
        self.thresholds = DetectionThresholds(
            score_threshold, nms_threshold, class_agnostic_nms, max_detections
        )
        self.max_candidates = max_candidates

    def __call__(
        self,
        outputs: HeadOutputs,
        b: int,
        vocabulary: VocabularyState,
        thresholds: DetectionThresholds | None = None,
    ) -> Instances:
        """Detections of one image.

        Args:
            outputs: of the head, for B images and K anchors.
            b: index of the image.
            vocabulary: C labels.
            thresholds: values that are not None override this object's own.

        Returns:
            Instances with ``pred_boxes`` (XYXY px, clipped to the image), ``scores`` (descending)
            and ``pred_classes`` in [0, C).
        """
        chosen = self.resolved(thresholds)
        scores, anchor, name = self.candidates(
            outputs, b, vocabulary, chosen.score_threshold, self._limit(thresholds)
        )
        return suppress(outputs.boxes_at(b, anchor), scores, name, outputs.image_sizes[b], chosen)

    def _limit(self, thresholds: DetectionThresholds | None) -> int:
        """How many candidates enter the suppression, so that all that are asked for can come out.

        The object's own ``max_detections`` does not count: it stands beside ``max_candidates``.
        """
        asked = thresholds.max_detections if thresholds is not None else None
        return max(self.max_candidates, asked or 0)

    def candidates(
        self,
        outputs: HeadOutputs,
        b: int,
        vocabulary: VocabularyState,
        score_threshold: float,
        limit: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of an anchor and a name above the threshold, at most ``max_candidates``.

        S is computed for some anchors and names at a time: memory does not grow with K times C.

        Args:
            outputs: of the head, for B images and K anchors.
            b: index of the image.
            vocabulary: C labels.
            score_threshold: in [0, 1].
            limit: replaces ``max_candidates``.

        Returns:
            Scores, anchors in [0, K) and names in [0, C): three tensors (P,) of P pairs.
        """
        regions, centerness = outputs.regions[b], outputs.centerness[b].float().sigmoid()
        floor = score_threshold**2
        limit = self.max_candidates if limit is None else limit
        # sqrt(p * c) > t needs c > t^2 and p > t^2 / c: most anchors and names drop out before
        # any sigmoid, and the result is the same.
        alive = (centerness > floor).nonzero().squeeze(1)
        scores, of_anchor, of_name = centerness[:0], alive[:0], alive[:0]
        if len(vocabulary) == 0:
            return scores, of_anchor, of_name
        kind = regions.device.type
        pairs, names = PAIRS_AT_ONCE.get(kind, 2**23), NAMES_AT_ONCE.get(kind, 2**15)
        chunks = vocabulary.chunks(names)
        for part in alive.split(max(pairs // min(len(vocabulary), names), 1)):
            of_part = regions[part]
            for first, similarity in chunks:
                logits = similarity(of_part).float()
                row, name = _above(logits, torch.logit(floor / centerness[part]))
                anchors = part[row]
                found = (logits[row, name].sigmoid() * centerness[anchors]).sqrt()
                scores = torch.cat([scores, found])
                of_anchor = torch.cat([of_anchor, anchors])
                of_name = torch.cat([of_name, name + first])
                if len(scores) > limit:
                    scores, best = scores.topk(limit)
                    of_anchor, of_name = of_anchor[best], of_name[best]
                    # Later pairs must be better than the last of these; 1e-6 is for rounding.
                    floor = max(floor, float(scores[-1]) ** 2 * (1 - 1e-6))
        return scores, of_anchor, of_name


def suppress(
    boxes: Tensor,
    scores: Tensor,
    name: Tensor,
    image_size: tuple[int, int],
    thresholds: Any,
    **fields: Tensor,
) -> Instances:
    """Non-maximum suppression of an image's candidates; the best so many of the result.

    Args:
        boxes: (P, 4) XYXY px.
        scores: (P,).
        name: (P,) int64.
        image_size: height and width, px.
        thresholds: complete `DetectionThresholds`; scores are above theirs.
        **fields: (P, ...) each, further fields of the result.
    """
    candidates = Boxes(boxes)
    candidates.clip(image_size)
    groups = torch.zeros_like(name) if thresholds.class_agnostic_nms else name
    keep = batched_nms(candidates.tensor, scores, groups, thresholds.nms_threshold)
    keep = keep[candidates[keep].nonempty()][: thresholds.max_detections]
    found = Instances(
        image_size, pred_boxes=candidates[keep], scores=scores[keep], pred_classes=name[keep]
    )
    for field, values in fields.items():
        found.set(field, values[keep])
    return found


def _above(logits: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the (K, C) logits above ``lowest`` (K,), the limit of each row.

    Most rows have none, as their maximum shows in a single pass. The comparison is negated, so that
    a name whose S is NaN does not hide the other names of its anchor.
    """
    some = (~(logits.amax(dim=1) <= lowest)).nonzero().squeeze(1)
    row, column = (logits[some] > lowest[some, None]).nonzero(as_tuple=True)
    return some[row], column


class TopKPerPhrase(PostProcess):
    """The best boxes of every name, however low their scores: for names known to be in the image.

    Phrase grounding asks where a phrase is, not whether. Names do not compete: the boxes of one
    name do not depend on the other names. Scores as in `PostProcess`.

    Args:
        nms_threshold: of two boxes of a name with a higher IoU, the one with the lower score is
            dropped.
        max_candidates: how many boxes of a name enter the suppression; more, if a call asks for
            more detections.
        max_detections: how many boxes of a name are kept at most.
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
        outputs: HeadOutputs,
        b: int,
        vocabulary: VocabularyState,
        thresholds: DetectionThresholds | None = None,
    ) -> Instances:
        """See `PostProcess`; at most ``max_detections`` for each of the C names."""
        chosen = self.resolved(thresholds)
        image_size = outputs.image_sizes[b]
        # A box that is not finite becomes empty, and empty boxes are dropped.
        boxes = Boxes(outputs.boxes_at(b, slice(None)).nan_to_num(0, 0, 0))
        boxes.clip(image_size)
        has_area = boxes.nonempty()
        boxes = boxes[has_area]
        scores = vocabulary.similarity(outputs.regions[b, has_area]).float().sigmoid()  # (K, C)
        scores = (scores * outputs.centerness[b, has_area].float().sigmoid()[:, None]).sqrt()
        limit = self._limit(thresholds)
        kept = torch.full_like(scores, -1)  # -1: not kept
        for of_name, kept_of_name in zip(scores.nan_to_num(-1).T, kept.T, strict=True):
            best, candidate = of_name.topk(min(limit, len(of_name)))
            keep = nms(boxes[candidate].tensor, best, chosen.nms_threshold)
            keep = keep[: chosen.max_detections]
            kept_of_name[candidate[keep]] = best[keep]
        anchor, name = (kept >= chosen.score_threshold).nonzero(as_tuple=True)
        best_first = kept[anchor, name].argsort(descending=True, stable=True)
        anchor, name = anchor[best_first], name[best_first]
        return Instances(
            image_size, pred_boxes=boxes[anchor], scores=kept[anchor, name], pred_classes=name
        )
