"""What boxes teach: assignment, then the three losses (paper, sec. 3.1 and 3.3)."""

from typing import Any, NamedTuple

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.heads.atss_head import Objectness, Predictions
from detclip2.modeling.losses.functional import (
    alignment_loss,
    box_loss,
    centerness_target,
    paired_iou,
    quality_loss,
)
from detclip2.modeling.text.text_batch import PhraseBatch


class Targets(NamedTuple):
    """The P positive anchors of a batch."""

    image: Tensor
    """(P,) which image."""
    anchor: Tensor
    """(P,) which anchor."""
    boxes: Tensor
    """(P, 4) its box, XYXY px."""
    pairs: tuple[Tensor, Tensor, Tensor]
    """(Q,) each: image, anchor and phrase that match; Q >= P, for a box may have many phrases."""


class Counts(NamedTuple):
    """What the losses are divided by: means over processes of sums over the batch."""

    positives: Tensor
    """Positive anchors."""
    centerness: Tensor
    """The centerness targets of these."""


class DetectionCriterion(nn.Module):
    """Alignment, box and centerness losses, and that of a head with a class-agnostic output.

    Args:
        assigner: which anchors learn which box.
        focal_alpha: weight of positives in the alignment loss.
        focal_gamma: its focusing exponent.
        box_weight: 2; the paper's text and its Tab. 9 disagree on which of the two weights is 2,
            but ATSS and DetCLIP both have boxes x 2, centerness x 1.
        centerness_weight: 1.
        boxes_of_grounding: learn boxes and centerness from grounding data too. The paper does
            not, for its boxes are inaccurate (sec. 3.3).
        objectness_weight: of the loss of the head's class-agnostic output, where it has one. The
            paper, which only names such scores (Tab. 2a), gives none.
    """

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
        samples: list[dict[str, Any]],
        batch: PhraseBatch,
        similarity: Tensor,
        predictions: Predictions,
        anchors: list[Boxes],
        box_transform: Box2BoxTransform,
        objectness: Objectness | None = None,
        counts: Counts | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch from a detection or grounding source.

        Args:
            samples: B samples with ``instances``.
            batch: the phrases of the samples, over all processes.
            similarity: (B, K, M_B) logits S.
            predictions: boxes and centerness of the K anchors.
            anchors: one entry a level.
            box_transform: decodes deltas.
            objectness: what ``predictions.objectness`` learns to be, if the head has it.
            counts: where the samples are a part of a batch, those of the whole, so that the losses
                of all parts add up to the whole's.

        Returns:
            "loss_align" and, unless left out for grounding, "loss_box", "loss_centerness" and,
            where ``predictions`` have objectness, "loss_objectness".
            Normalised by counts over all processes, so that the mean over processes of their
            gradients is that of the joint batch.
        """
        targets = self.assign(samples, batch, anchors)
        chosen = Boxes.cat(anchors)[targets.anchor]
        center_target = centerness_target(chosen.get_centers(), targets.boxes)
        num_positives, sum_of_centerness = counts or _counts(center_target)
        losses = {
            "loss_align": alignment_loss(
                similarity,
                targets.pairs,
                batch.negatives_valid(similarity.device),
                self.focal_alpha,
                self.focal_gamma,
            )
            / num_positives
        }
        if samples[0]["source"] == "grounding" and not self.boxes_of_grounding:
            return losses
        predicted = box_transform.apply_deltas(
            predictions.deltas[targets.image, targets.anchor].float(), chosen.tensor
        )
        losses["loss_box"] = (
            self.box_weight * box_loss(predicted, targets.boxes, center_target) / sum_of_centerness
        )
        losses["loss_centerness"] = (
            self.centerness_weight
            * quality_loss(predictions.centerness[targets.image, targets.anchor], center_target)
            / num_positives
        )
        if predictions.objectness is not None:
            losses["loss_objectness"] = (
                self.objectness_weight
                * self.objectness_loss(predictions.objectness, objectness, targets, predicted)
                / num_positives
            )
        return losses

    def counts(
        self, samples: list[dict[str, Any]], batch: PhraseBatch, anchors: list[Boxes]
    ) -> Counts:
        """What the losses of these samples are divided by; arguments as of :meth:`forward`."""
        targets = self.assign(samples, batch, anchors)
        centers = Boxes.cat(anchors)[targets.anchor].get_centers()
        return _counts(centerness_target(centers, targets.boxes))

    def objectness_loss(
        self, logits: Tensor, kind: Objectness | None, targets: Targets, predicted: Tensor
    ) -> Tensor:
        """The loss of a class-agnostic output, summed.

        ``class`` is alignment with the one phrase "object": focal loss, where every anchor without
        a box is a negative, as in a region proposal network. ``iou`` is cross entropy with the
        IoU of the predicted box, at positive anchors alone (arXiv 1912.05992).

        Args:
            logits: (B, K).
            kind: what they mean.
            targets: the P positive anchors.
            predicted: (P, 4) their predicted boxes, XYXY px; they learn nothing here.
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
        self, samples: list[dict[str, Any]], batch: PhraseBatch, anchors: list[Boxes]
    ) -> Targets:
        """The positive anchors of every sample, their boxes and phrases."""
        device = anchors[0].device
        parts: list[tuple[Tensor, ...]] = []
        for i, sample in enumerate(samples):
            instances: Instances = sample["instances"].to(device)
            boxes = instances.gt_boxes.tensor
            phrases = batch.targets_of(i, instances.gt_classes)
            # A box that several phrases name is one box to the assigner, with several targets.
            distinct, box_of_phrase = boxes.unique(dim=0, return_inverse=True)
            assigned = self.assigner(anchors, Boxes(distinct))
            anchor = (assigned >= 0).nonzero().squeeze(1)
            box = assigned[anchor]
            position, named = (box[:, None] == box_of_phrase[None, :]).nonzero(as_tuple=True)
            pairs = torch.stack([anchor[position], phrases[named]], dim=1).unique(dim=0)
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
    """Of this process's P positive anchors; at least one in all, for a batch may have no box."""
    world_size = comm.get_world_size()
    number = center_target.new_tensor(len(center_target))
    sums = torch.stack([number, center_target.detach().sum()]).float()
    if world_size > 1:
        torch.distributed.all_reduce(sums)
    return Counts(*(sums / world_size).clamp(min=1 / world_size).unbind())
