"""GLIP with a mask head: detections of names and of references get their masks (GLIPv2)."""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import ImageList, Instances
from torch import Tensor

from detclip2.modeling.heads.mask_head import MaskHead
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.masks import MaskCriterion, has_masks
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.protocol import Losses, Sample
from detclip2.modeling.text.caption_state import EncodedCaption
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.modeling.token_postprocess import Candidates


class MaskGLIP(GLIP):
    """The part of GLIPv2 that masks need. Without a mask head it is GLIP.

    Where the mask head alone learns (``train.learn=[mask_head.]``), as in the paper's second stage,
    other losses are skipped.

    Args:
        mask_head: gives detections their masks; None: they are boxes alone.
        mask_losses: of the mask head, on data with boxes whose samples keep ``gt_masks``.
        **glip: the arguments of `GLIP`.
    """

    def __init__(
        self,
        *,
        mask_head: MaskHead | None = None,
        mask_losses: MaskCriterion | None = None,
        **glip: Any,
    ) -> None:
        super().__init__(**glip)
        self.mask_head = mask_head
        self.mask_losses = mask_losses
        self.predicts_masks = mask_head is not None

    @property
    def ignored_weights(self) -> tuple[str, ...]:
        """Prefixes of weights to ignore: in a model without a mask head, those of one."""
        return (*super().ignored_weights, *(() if self.mask_head else ("mask_head.",)))

    @property
    def learns_masks_alone(self) -> bool:
        """Whether no weight but those of the mask head learns."""
        if self.mask_head is None or not any(p.requires_grad for p in self.mask_head.parameters()):
            return False
        others = (p for name, p in self.named_parameters() if not name.startswith("mask_head."))
        return not any(p.requires_grad for p in others)  # of most models, the first one does

    def encode_images(self, images: ImageList, text: TokenBatch | None = None) -> HeadOutputs:
        """As in `GLIP`, with the images, which the mask head reads."""
        outputs = super().encode_images(images, text)
        outputs.images = images.tensor
        return outputs

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """Those of `GLIP`, and of masks if the data has them."""
        of_boxes, of_masks = counts or (None, None)
        losses: Losses = {}
        if not self.learns_masks_alone:
            losses |= super().image_losses(outputs, text, samples, of_boxes)
        if self.mask_head is not None and self.mask_losses is not None and has_masks(samples):
            losses |= self.mask_losses(self.mask_head, outputs, text, samples, of_masks)
        return losses

    def loss_counts(self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]) -> Any:
        """Those of `GLIP`, and the number of objects with masks, over all processes."""
        of_boxes = None if self.learns_masks_alone else super().loss_counts(outputs, text, samples)
        if self.mask_losses is None or not has_masks(samples):
            return of_boxes, None
        return of_boxes, self.mask_losses.counts(text, samples)

    def candidates(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        caption: EncodedCaption,
        thresholds: DetectionThresholds | None,
    ) -> Candidates:
        """Those of `GLIP`, with what the mask head needs to know of their names."""
        found = super().candidates(outputs, text, caption, thresholds)
        if self.mask_head is None or not self.predicts_masks:
            return found
        [tokens] = self.fused_states(outputs, text)
        return found._replace(words=self.mask_head.words(tokens, caption.weights)[found.columns])

    def finished(self, image: Tensor, levels: list[Tensor], found: Instances) -> Instances:
        """With ``pred_masks`` (N, 1, size, size), probabilities in the box, if it gives masks."""
        if self.mask_head is None or not self.predicts_masks:
            return found
        size = self.mask_head.mask_size
        found.pred_masks = levels[0].new_zeros(len(found), 1, size, size)
        if found.has("pred_words"):  # not without a caption
            logits = self.mask_head(image, levels, [found.pred_boxes], found.pred_words)
            found.pred_masks = logits.float().sigmoid()[:, None]
            found.remove("pred_words")
        return found
