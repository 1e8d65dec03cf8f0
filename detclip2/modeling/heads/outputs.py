"""Outputs of a detection head, for losses and post-processing."""

from dataclasses import dataclass
from functools import cached_property

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch import Tensor

from detclip2.modeling.heads.atss_head import Objectness


@dataclass
class HeadOutputs:
    """Outputs of a head for B images, at K anchors: all levels joined, finest level first."""

    regions: Tensor
    """(B, K, D) region embeddings."""
    deltas: Tensor
    """(B, K, 4) box deltas with respect to the anchors."""
    centerness: Tensor
    """(B, K) centerness logits."""
    anchors: list[Boxes]
    """One entry a level, K in all, XYXY px of the padded image; the same for all images."""
    image_sizes: list[tuple[int, int]]
    """B pairs of height and width, px, without padding."""
    box2box_transform: Box2BoxTransform
    """Decodes deltas."""
    objectness: Tensor | None = None
    """(B, K) class-agnostic logits, if the head has them. Inference does not read them."""
    objectness_kind: Objectness | None = None
    """What ``objectness`` predicts."""
    tokens: Tensor | None = None
    """(B, T, width) states of tokens after the head, if it fuses the text."""
    pyramid: list[Tensor] | None = None
    """Levels of (B, C, H_l, W_l) before the head, finest first; None if no loss reads them."""
    images: Tensor | None = None
    """(B, 3, H, W) normalised images, if masks read them."""

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.regions)

    @cached_property
    def all_anchors(self) -> Boxes:
        """The K anchors."""
        return Boxes.cat(self.anchors)

    def boxes_at(self, image: Tensor | int, anchor: Tensor | slice) -> Tensor:
        """Boxes of some anchors, not clipped, with gradient.

        Args:
            image: (P,) int64 indices into the B images, or one index for all.
            anchor: (P,) int64 indices into the K anchors, or a slice of them.

        Returns:
            (P, 4) XYXY px, float32.
        """
        return self.box2box_transform.apply_deltas(
            self.deltas[image, anchor].float(), self.all_anchors.tensor[anchor]
        )

    @cached_property
    def boxes(self) -> Tensor:
        """(B, K, 4) boxes of all anchors, XYXY px, clipped to their images, without gradient."""
        anchors = self.all_anchors.tensor.repeat(len(self), 1)
        with torch.no_grad():
            boxes = self.box2box_transform.apply_deltas(
                self.deltas.detach().float().flatten(0, 1), anchors
            ).view(len(self), -1, 4)
            sizes = boxes.new_tensor(self.image_sizes)  # (B, 2) height, width
            return boxes.clamp(min=0).minimum(sizes[:, [1, 0, 1, 0]].unsqueeze(1))
