"""Post-processing of token logits: from captions to detections (GLIP's rules)."""

from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor

from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.postprocess import Thresholded, suppress
from detclip2.modeling.text.caption_state import EncodedCaption
from detclip2.modeling.thresholds import DetectionThresholds


class Candidates(NamedTuple):
    """P boxes of an image with a label each, before suppression."""

    boxes: Tensor
    """(P, 4) XYXY px, not clipped."""
    scores: Tensor
    """(P,) in [0, 1]."""
    labels: Tensor
    """(P,) int64 in [0, C)."""
    columns: Tensor
    """(P,) int64, the columns of their caption that they come from."""
    words: Tensor | None = None
    """(P, ...) what a mask head needs to know of the name of each."""

    @classmethod
    def none(cls, device: torch.device) -> "Candidates":
        """No boxes."""
        scores = torch.zeros(0, device=device)
        labels = scores.new_zeros(0, dtype=torch.int64)
        return cls(scores.new_zeros(0, 4), scores, labels, labels)


class TokenPostProcess(Thresholded):
    """Scores of names from token logits; then thresholds, suppression, and the best detections.

    The probability of a name at an anchor is the mean over its tokens of sigmoid(S). The score of a
    box with a name is sqrt(probability * sigmoid(centerness)), in [0, 1].

    Args:
        min_probability: a name is dropped at an anchor if its probability, without centerness, is
            not above it; 0.05 in GLIP.
        max_candidates: how many (box, name) pairs of a level enter the suppression, for each
            caption; 1000 in GLIP.
        score_threshold: see `DetectionThresholds`; GLIP has no threshold of its final scores.
        nms_threshold: see there.
        class_agnostic_nms: see there.
        max_detections: see there; 100 in GLIP, and 300 a caption for LVIS.
    """

    def __init__(
        self,
        min_probability: float = 0.05,
        max_candidates: int = 1000,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.6,
        class_agnostic_nms: bool = False,
        max_detections: int = 100,
    ) -> None:
        self.min_probability = min_probability
        self.max_candidates = max_candidates
        self.thresholds = DetectionThresholds(
            score_threshold, nms_threshold, class_agnostic_nms, max_detections
        )

    def candidates(
        self,
        outputs: HeadOutputs,
        b: int,
        logits: Tensor,
        caption: EncodedCaption,
        thresholds: DetectionThresholds | None = None,
    ) -> Candidates:
        """Boxes of an image with labels of one caption.

        Args:
            outputs: of the head for the caption, for B images and K anchors.
            b: index of the image.
            logits: (K, T) token logits S of the image.
            caption: whose tokens these are.
            thresholds: values that are not None override this object's own.
        """
        probability = logits.float().sigmoid() @ caption.weights.float()  # (K, P)
        centerness = outputs.centerness[b].float().sigmoid()
        anchors, columns, first = [], [], 0
        for level in outputs.anchors:
            of_level = probability[first : first + len(level)]
            anchor, column = (of_level > self.min_probability).nonzero(as_tuple=True)
            score = of_level[anchor, column] * centerness[first + anchor]
            if len(score) > self.max_candidates:
                best = score.topk(self.max_candidates).indices
                anchor, column = anchor[best], column[best]
            anchors.append(first + anchor)
            columns.append(column)
            first += len(level)
        anchor, column = torch.cat(anchors), torch.cat(columns)
        scores = (probability[anchor, column] * centerness[anchor]).sqrt()
        above = scores >= self.resolved(thresholds).score_threshold  # not of NaN
        anchor, column = anchor[above], column[above]
        boxes = outputs.boxes_at(b, anchor)
        return Candidates(boxes, scores[above], caption.labels[column], column)

    def __call__(
        self,
        candidates: list[Candidates],
        image_size: tuple[int, int],
        thresholds: DetectionThresholds | None = None,
    ) -> Instances:
        """Detections of one image from the candidates of all captions, at least one.

        Args:
            candidates: of each caption; a label may have some of several.
            image_size: height and width, px.
            thresholds: values that are not None override this object's own.

        Returns:
            Instances as those of `PostProcess`; with ``pred_words``, if all candidates have words.
        """
        chosen = self.resolved(thresholds)
        boxes = torch.cat([one.boxes for one in candidates])
        scores = torch.cat([one.scores for one in candidates])
        labels = torch.cat([one.labels for one in candidates])
        words = [one.words for one in candidates if one.words is not None]
        fields = {"pred_words": torch.cat(words)} if len(words) == len(candidates) else {}
        return suppress(boxes, scores, labels, image_size, chosen, **fields)
