"""GLIP (arXiv 2112.03857): the meta-architecture, as in the paper's figure 2."""

from collections.abc import Sequence
from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detclip2.modeling.heads.dyhead import GLIPHead
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.heads.token_head import TokenHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.meta_arch.base import RGB_MEAN, RGB_STD, OpenVocabularyDetector
from detclip2.modeling.protocol import Losses, Sample
from detclip2.modeling.supervision import losses_for
from detclip2.modeling.text.caption_state import (
    CaptionedVocabulary,
    CaptionState,
    EncodedCaption,
    encode_caption,
    encode_names,
    names_and_labels,
)
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.modeling.token_postprocess import Candidates, TokenPostProcess
from detclip2.utils.errors import UserError


@META_ARCH_REGISTRY.register()
class GLIP(OpenVocabularyDetector):
    """Detection as phrase grounding: names are a caption, and S is between regions and its tokens.

    Image and caption are fused in the head, so outputs of an image depend on the caption. Samples
    have the format of ``detclip2.data.sample``. The caption of a sample is its ``caption``, if it
    has this and ``phrase_spans``, else its ``phrases`` joined, as far as they fit.

    Args:
        backbone: images to a pyramid of features.
        text_tower: captions to the states of their tokens.
        head: N blocks that fuse both; box deltas and centerness.
        token_head: regions and fused tokens to S.
        box_losses: losses on data with boxes; grounding data is no exception in GLIP.
        extra_losses: losses for further kinds of supervision, with the methods of `box_losses`.
        postprocess: S and boxes to detections.
        names_per_caption: maximum names of a caption in inference; None: as many as fit. The
            published results on LVIS have 40.
        shuffle: whether the names of a caption are in random order in training.
        head_in_features: the levels of the pyramid that the head reads.
        pixel_mean: RGB, 0..255.
        pixel_std: RGB, 0..255.
        vocabulary: names to detect until `set_vocabulary`.
    """

    reads_names = True
    state_type = CaptionState

    def __init__(
        self,
        *,
        backbone: Backbone,
        text_tower: TokenTower,
        head: GLIPHead,
        token_head: TokenHead,
        box_losses: DetectionCriterion,
        extra_losses: Sequence[nn.Module] = (),
        postprocess: TokenPostProcess,
        names_per_caption: int | None = None,
        shuffle: bool = True,
        head_in_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        pixel_mean: Sequence[float] = RGB_MEAN,
        pixel_std: Sequence[float] = RGB_STD,
        vocabulary: Sequence[str] = (),
    ) -> None:
        super().__init__(pixel_mean, pixel_std, vocabulary)
        self.backbone = backbone
        self.text_tower = text_tower
        self.head = head
        self.token_head = token_head
        self.box_losses = box_losses
        self.extra_losses = nn.ModuleList(extra_losses)
        self.postprocess = postprocess
        self.names_per_caption = names_per_caption
        self.shuffle = shuffle
        self.set_anchors(head_in_features)

    @property
    def embed_dim(self) -> int:
        """D, the channels of a region."""
        return self.head.out_channels

    def encode_text(self, samples: Sequence[Sample]) -> TokenBatch:
        """One caption for each sample, through the text tower."""
        return TokenBatch.from_samples(samples, self.text_encoder, self.training and self.shuffle)

    def encode_images(self, images: ImageList, text: TokenBatch | None = None) -> HeadOutputs:
        """Backbone and pyramid, then the head, in which images and captions are fused."""
        assert text is not None, "GLIP reads images together with their captions"
        return self.fuse(self.pyramid(images), images.image_sizes, text)

    def pyramid(self, images: ImageList) -> list[Tensor]:
        """Levels of (B, C, H_l, W_l), which do not depend on the text."""
        features = self.backbone(images.tensor)
        return [features[name] for name in self.head_in_features]

    def fuse(
        self, levels: list[Tensor], image_sizes: list[tuple[int, int]], text: TokenBatch
    ) -> HeadOutputs:
        """N blocks of fusion, text layer and dynamic block; boxes and centerness."""
        return HeadOutputs(
            **self.head(levels, text.embeddings, text.mask, text.is_causal),
            anchors=self.anchor_generator(levels),
            image_sizes=image_sizes,
            box2box_transform=self.box2box_transform,
            pyramid=levels,
        )

    def token_logits(self, outputs: HeadOutputs, text: TokenBatch) -> Tensor:
        """S, (B, K, T)."""
        return self.token_head(outputs.regions, self.fused_states(outputs, text))

    @staticmethod
    def fused_states(outputs: HeadOutputs, text: TokenBatch) -> Tensor:
        """(B, T, width) fused states of tokens; those of the text tower if nothing is fused."""
        return text.embeddings if outputs.tokens is None else outputs.tokens

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """Alignment of tokens, box and centerness, on detection and grounding data alike."""
        losses = self._losses_for(samples)
        return losses(self.token_logits(outputs, text), outputs, text, samples, counts)

    def loss_counts(self, outputs: HeadOutputs, text: TokenBatch, samples: Sequence[Sample]) -> Any:
        """Positive anchors and their centerness, over all processes."""
        return self._losses_for(samples).counts(outputs, text, samples)

    def _losses_for(self, samples: Sequence[Sample]) -> Any:
        return losses_for(samples, (self.box_losses, *self.extra_losses))

    def detect(
        self,
        images: ImageList,
        vocabularies: list[CaptionState],
        thresholds: DetectionThresholds | None,
    ) -> list[Instances]:
        """Candidates of each caption of a vocabulary, and the best of all.

        The pyramid is computed once; the head once for each caption, or once in all if it does not
        read the text.
        """
        levels = self.pyramid(images)
        found: list[Instances] = []
        for b, vocabulary in enumerate(vocabularies):
            own_levels, size = [level[b : b + 1] for level in levels], images.image_sizes[b]
            candidates = []
            outputs = None
            for caption in vocabulary.captions:
                text = caption.repeated(1)
                if outputs is None or self.head.reads_text:
                    outputs = self.fuse(own_levels, [size], text)
                candidates.append(self.candidates(outputs, text, caption, thresholds))
            candidates = candidates or [Candidates.none(self.device)]
            detections = self.postprocess(candidates, size, thresholds)
            found.append(self.finished(images.tensor[b : b + 1], own_levels, detections))
        return found

    def candidates(
        self,
        outputs: HeadOutputs,
        text: TokenBatch,
        caption: EncodedCaption,
        thresholds: DetectionThresholds | None,
    ) -> Candidates:
        """The boxes of one image with labels of one caption, before suppression."""
        [logits] = self.token_logits(outputs, text)
        return self.postprocess.candidates(outputs, 0, logits, caption, thresholds)

    def finished(self, image: Tensor, levels: list[Tensor], found: Instances) -> Instances:
        """The detections of one image, after suppression, with what a subclass adds.

        Args:
            image: (1, 3, H, W), normalised.
            levels: its pyramid.
            found: its detections.
        """
        return found

    def similarity(self, outputs: HeadOutputs, text: TokenBatch) -> Tensor:
        """(B, K, M) logits of the mean probability of each phrase's tokens.

        -inf for the phrases of the captions of other images.
        """
        return (self.token_logits(outputs, text).float().sigmoid() @ text.phrase_weights()).logit()

    def chosen_regions(self, outputs: HeadOutputs, text: TokenBatch) -> tuple[Tensor, Tensor]:
        """(M, B) indices of the regions with the best score; (B,) whether there are any.

        The score is that of detections. In training, captions without boxes choose no regions.
        """
        scores = self.similarity(outputs, text).sigmoid()
        scores = scores * outputs.centerness.float().sigmoid()[..., None]
        return scores.argmax(dim=1).T, scores.amax(dim=(1, 2)) > 0  # not of NaN

    def rows_of(
        self, vocabulary: Any, label_of_row: Tensor | None = None
    ) -> tuple[Any, Tensor | None]:
        """The R names of a vocabulary, and the label of each; a caption stays one.

        Raises:
            UserError: it has embeddings only.
        """
        if isinstance(vocabulary, CaptionedVocabulary):
            return vocabulary, None
        return names_and_labels(vocabulary, label_of_row)

    def prepare_rows(self, rows: Any, label_of_row: Tensor | None) -> CaptionState:
        """The captions of names, or a whole caption, encoded.

        Raises:
            UserError: the whole caption is too long.
        """
        if isinstance(rows, CaptionedVocabulary):
            return encode_caption(rows, self.text_encoder)
        return encode_names(rows, label_of_row, self.text_encoder, self.names_per_caption)

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """GLIP has no embeddings of single phrases.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this model encodes names together with the image, so it has no embeddings of names: "
            "give it the names"
        )
