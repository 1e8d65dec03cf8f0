"""GLIPv2 (arXiv 2206.05836): GLIP with losses and heads for language, masks and answers."""

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY

from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.masked_language import MaskedLanguage
from detclip2.modeling.losses.region_word_contrast import BoxedRegions, RegionWordContrast
from detclip2.modeling.meta_arch.language_glip import LanguageGLIP
from detclip2.modeling.protocol import Losses, Sample
from detclip2.modeling.supervision import supervision_of
from detclip2.modeling.text.token_batch import TokenBatch


@META_ARCH_REGISTRY.register()
class GLIPv2(LanguageGLIP):
    """One set of weights for localisation and understanding.

    L = L_loc + L_intra + L_inter + L_mlm (sec. 3.2): the first two are GLIP's losses, the others
    those of its parts. Without its optional parts it is GLIP.

    Args:
        region_word_contrast: L_inter, regions and words of different images; None: no such loss.
        **glip: the arguments of `GLIP`; of `MaskGLIP`, which has the masks; and of `LanguageGLIP`,
            which has L_mlm in ``masked_language``, answers and captions.
    """

    def __init__(
        self,
        *,
        region_word_contrast: RegionWordContrast | None = None,
        **glip: Any,
    ) -> None:
        super().__init__(**glip)
        self.region_word_contrast = region_word_contrast

    def encode_text(self, samples: Sequence[Sample]) -> TokenBatch:
        """One caption for each sample; in training on boxes, some of its words are masked."""
        masking = None
        if self.training and self.masked_language is not None and self._has_boxes(samples):
            masking = self.masked_language.mask
        shuffle = self.training and self.shuffle
        return TokenBatch.from_samples(samples, self.text_encoder, shuffle, masking)

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """L_loc and L_intra, as in GLIP, and L_mlm, on the same masked captions.

        Or the loss of answers, or of captions to write.
        """
        states = self.fused_states(outputs, text)
        kind = supervision_of(samples)
        if kind == "vqa":
            return self._part("answer_head").losses(states, samples, counts)
        if kind == "captioning":
            counts = self.loss_counts(outputs, text, samples) if counts is None else counts
            head = self._part("caption_head")
            return head.losses(self.word_logits, states, text.targets, counts)
        of_boxes, masked = counts or (None, None)
        losses = super().image_losses(outputs, text, samples, of_boxes)
        if self.masked_language is not None and text.targets is not None:
            embeddings = self.text_encoder.word_embeddings
            losses |= self.masked_language(states, text.targets, embeddings, masked)
        return losses

    def loss_counts(self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]) -> Any:
        """Those of GLIP, and the number of masked tokens, over all processes.

        Of questions their number, and of captions to write that of their tokens.
        """
        kind = supervision_of(samples)
        if kind == "vqa":
            return len(samples)
        masked = None if text.targets is None else MaskedLanguage.count(text.targets)
        if kind == "captioning":
            return masked
        return super().loss_counts(outputs, text, samples), masked

    def has_contrast(self, samples: Sequence[Sample]) -> bool:
        """Whether there is L_inter, on data with boxes."""
        return self.region_word_contrast is not None and self._has_boxes(samples)

    def contrast_regions(
        self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]
    ) -> BoxedRegions:
        """Positive anchors of each image, before fusion."""
        targets = self.box_losses.assign(outputs, text, samples)
        return self._contrast.regions(outputs, targets, text)

    def contrast_losses(self, regions: BoxedRegions, text: TokenBatch) -> Losses:
        """L_inter: each region over the words of all images, and each word over their regions."""
        return self._contrast.losses(regions, text)

    @property
    def _contrast(self) -> RegionWordContrast:
        assert self.region_word_contrast is not None
        return self.region_word_contrast

    def _has_boxes(self, samples: Sequence[Sample]) -> bool:
        has_boxes = supervision_of(samples) in self.box_losses.supervisions
        return has_boxes and not self.learns_masks_alone
