"""Losses on data with boxes: assignment, then the three losses (paper, sec. 3.1 and 3.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from detclip2.modeling.assigners.atss import ATSSAssigner, shrink
from detclip2.modeling.heads.atss_head import Objectness
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.layers.collectives import shared_divisor
from detclip2.modeling.losses.functional import (
    alignment_loss,
    box_loss,
    centerness_target,
    paired_iou,
    quality_loss,
)
from detclip2.modeling.supervision import supervision_of
from detclip2.modeling.text.text_batch import Columns


class Targets(NamedTuple):
    """The P positive anchors of a batch."""

    image: Tensor
    """(P,) int64 indices into the B images."""
    anchor: Tensor
    """(P,) int64 indices into the K anchors."""
    boxes: Tensor
    """(P, 4) the assigned boxes, XYXY px."""
    pairs: tuple[Tensor, Tensor, Tensor]
    """(Q,) each: matching image, anchor and column of S; Q >= P: a box may have many phrases."""


class Counts(NamedTuple):
    """Divisors of the losses: means over processes of sums over the batch."""

    positives: Tensor
    """Number of positive anchors."""
    centerness: Tensor
    """Sum of their centerness targets."""


class DetectionCriterion(nn.Module):
    """Alignment, box and centerness losses, and the loss of a head's class-agnostic output.

    Args:
        assigner: assigns boxes to anchors.
        focal_alpha: weight of positives in the alignment loss.
        focal_gamma: its focusing exponent.
        box_weight: 2; the paper's text and its Tab. 9 disagree on which of the two weights is 2,
            but ATSS and DetCLIP both have boxes x 2, centerness x 1.
        centerness_weight: weight of the centerness loss, see ``box_weight``.
        boxes_of_grounding: whether grounding data has box and centerness losses. In the paper it
            has none, because its boxes are inaccurate (sec. 3.3).
        objectness_weight: weight of the loss of the head's class-agnostic output, if it has one.
            The paper only names these scores (Tab. 2a) and gives no weight.
    """

    supervisions = ("detection", "grounding")

    def __init__(
        self,
        assigner: ATSSAssigner,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        box_weight: float = 2.0,
        centerness_weight: float = 1.0,
        boxes_of_grounding: bool = False,
        objectness_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.assigner = assigner
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.box_weight = box_weight
        self.centerness_weight = centerness_weight
        self.boxes_of_grounding = boxes_of_grounding
        self.objectness_weight = objectness_weight

    def forward(
        self,
        similarity: Tensor,
        outputs: HeadOutputs,
        text: Columns,
        samples: Sequence[Mapping[str, Any]],
        counts: Counts | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of detection or grounding data.

        Args:
            similarity: (B, K, M) logits S of ``outputs`` and ``text``.
            outputs: of the head, for B images and K anchors.
            text: the M phrases of the samples, and of other processes if gathered.
            samples: B samples with ``instances``.
            counts: divisors, if the samples are a part of a batch: `counts` of the whole batch. The
                losses of all parts then add up to the losses of the whole.

        Returns:
            "loss_align" and, unless the data is grounding, "loss_box", "loss_centerness" and,
            if ``outputs`` have objectness, "loss_objectness".
            They are normalised by counts over all processes: the mean of the processes' gradients
            is the gradient of the joint batch.

        Raises:
            ValueError: the samples have different kinds of supervision.
        """
        targets = self.assign(outputs, text, samples)
        center_target = self._centerness_target(outputs, targets)
        num_positives, sum_of_centerness = counts or _counts(center_target)
        losses = {
            "loss_align": alignment_loss(
                similarity,
                targets.pairs,
                text.negatives_valid(similarity.device),
                self.focal_alpha,
                self.focal_gamma,
            )
            / num_positives
        }
        if supervision_of(samples) == "grounding" and not self.boxes_of_grounding:
            return losses
        predicted = outputs.boxes_at(targets.image, targets.anchor)
        inset = self.assigner.inset
        of_boxes = box_loss(shrink(predicted, inset), shrink(targets.boxes, inset), center_target)
        losses["loss_box"] = self.box_weight * of_boxes / sum_of_centerness
        losses["loss_centerness"] = (
            self.centerness_weight
            * quality_loss(outputs.centerness[targets.image, targets.anchor], center_target)
            / num_positives
        )
        if outputs.objectness is not None:
            losses["loss_objectness"] = (
                self.objectness_weight
                * self.objectness_loss(
                    outputs.objectness, outputs.objectness_kind, targets, predicted
                )
                / num_positives
            )
        return losses

    def counts(
        self, outputs: HeadOutputs, text: Columns, samples: Sequence[Mapping[str, Any]]
    ) -> Counts:
        """Divisors of the losses of these samples; only the anchors of ``outputs`` are read."""
        return _counts(self._centerness_target(outputs, self.assign(outputs, text, samples)))

    def _centerness_target(self, outputs: HeadOutputs, targets: Targets) -> Tensor:
        centers = outputs.all_anchors[targets.anchor].get_centers()
        return centerness_target(centers, shrink(targets.boxes, self.assigner.inset))

    def objectness_loss(
        self, logits: Tensor, kind: Objectness | None, targets: Targets, predicted: Tensor
    ) -> Tensor:
        """The loss of a class-agnostic output, summed.

        ``class`` is alignment with the single phrase "object": focal loss, in which every anchor
        without a box is a negative, as in a region proposal network. ``iou`` is cross entropy with
        the IoU of the predicted box, only at positive anchors (arXiv 1912.05992).

        Args:
            logits: (B, K).
            kind: "class" or "iou".
            targets: the P positive anchors.
            predicted: (P, 4) their predicted boxes, XYXY px; they get no gradient here.
        """
        positives = (targets.image, targets.anchor)
        if kind == "iou":
            return quality_loss(logits[positives], paired_iou(predicted.detach(), targets.boxes))
        return alignment_loss(
            logits[..., None],
            (*positives, torch.zeros_like(targets.anchor)),
            logits.new_ones(len(logits), 1, dtype=torch.bool),
            self.focal_alpha,
            self.focal_gamma,
        )

    @torch.no_grad()
    def assign(
        self, outputs: HeadOutputs, text: Columns, samples: Sequence[Mapping[str, Any]]
    ) -> Targets:
        """The positive anchors of every sample, their boxes, and the matching columns."""
        device = outputs.all_anchors.device
        parts: list[tuple[Tensor, ...]] = []
        for i, sample in enumerate(samples):
            instances: Instances = sample["instances"].to(device)
            boxes = instances.gt_boxes.tensor
            row, column = text.columns_of(i, instances.gt_classes)
            # A box that several phrases name is one box to the assigner, with several targets. One
            # without columns, as its phrase does not fit into the caption, is no target.
            distinct, distinct_of_pair = boxes[row].unique(dim=0, return_inverse=True)
            assigned = self.assigner(outputs.anchors, Boxes(distinct))
            anchor = (assigned >= 0).nonzero().squeeze(1)
            box = assigned[anchor]
            matches = box[:, None] == distinct_of_pair
            position, named = matches.nonzero(as_tuple=True)
            pairs = torch.stack([anchor[position], column[named]], dim=1).unique(dim=0)
            parts.append(
                (
                    torch.full_like(anchor, i),
                    anchor,
                    distinct[box],
                    torch.full_like(pairs[:, 0], i),
                    pairs[:, 0],
                    pairs[:, 1],
                )
            )
        image, anchor, boxes, *pairs_of_all = (torch.cat(part) for part in zip(*parts, strict=True))
        return Targets(image, anchor, boxes, tuple(pairs_of_all))  # type: ignore[arg-type]


def _counts(center_target: Tensor) -> Counts:
    """Divisors from the (P,) targets of this process; one anchor in all if there is none."""
    number = center_target.new_tensor(len(center_target))
    sums = torch.stack([number, center_target.detach().sum()]).float()
    return Counts(*shared_divisor(sums).unbind())
