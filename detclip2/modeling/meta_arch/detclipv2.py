"""DetCLIPv2 (arXiv 2304.04514): the meta-architecture, as in the paper's figure 2."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.atss_head import ATSSHead, Objectness
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.meta_arch.base import RGB_MEAN, RGB_STD, OpenVocabularyDetector
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.proposals import Proposals
from detclip2.modeling.protocol import Losses, Sample
from detclip2.modeling.supervision import losses_for, supervision_of
from detclip2.modeling.text.phrase_tokens import PhraseTokens
from detclip2.modeling.text.text_bank import VocabularyState
from detclip2.modeling.text.text_batch import TextBatch
from detclip2.modeling.text.text_tower import TextTower
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError


@META_ARCH_REGISTRY.register()
class DetCLIPv2(OpenVocabularyDetector):
    """One similarity S of regions and phrases; the losses depend on the supervision.

    `OpenVocabularyModel` documents its methods. A batch in training has one kind of supervision.
    Its samples have the format of ``detclip2.data.sample``: ``image`` (3, H, W) RGB in 0..255,
    ``phrases``, ``num_positives``, and ``instances`` unless the supervision is caption.

    Args:
        backbone: images to a pyramid of features.
        head: pyramid to region embeddings, box deltas and centerness.
        text_tower: phrases to embeddings; None for a model that only reads encoded vocabularies.
        align: regions and phrases to S.
        box_losses: losses on data with boxes.
        contrast: loss on image-text pairs; None for a model that is not trained on them.
        extra_losses: losses for further kinds of supervision, with the methods of `box_losses`.
        postprocess: S and boxes to detections.
        head_in_features: the levels of the pyramid that the head reads.
        anchor_generator: the anchors of each level; by default one square of 8 strides a location.
        box2box_transform: box deltas to boxes; by default with the weights of ATSS.
        pixel_mean: RGB, 0..255.
        pixel_std: RGB, 0..255.
        vocabulary: names to detect until `set_vocabulary`, or a function that returns them when
            they are first needed.

    Raises:
        UserError: the contrast chooses proposals by an output that the head does not have.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: ATSSHead,
        text_tower: TextTower | None,
        align: Alignment,
        box_losses: DetectionCriterion,
        contrast: WordRegionContrast | None = None,
        extra_losses: Sequence[nn.Module] = (),
        postprocess: PostProcess,
        head_in_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        anchor_generator: nn.Module | None = None,
        box2box_transform: Box2BoxTransform | None = None,
        pixel_mean: Sequence[float] = RGB_MEAN,
        pixel_std: Sequence[float] = RGB_STD,
        vocabulary: Sequence[str] | Callable[[], Sequence[str]] = (),
    ) -> None:
        super().__init__(pixel_mean, pixel_std, vocabulary)
        self.backbone = backbone
        self.head = head
        self.text_tower = text_tower
        self.align = align
        self.box_losses = box_losses
        self.contrast = contrast
        self.extra_losses = nn.ModuleList(extra_losses)
        self.postprocess = postprocess
        self.set_anchors(head_in_features, anchor_generator, box2box_transform)
        _check_proposal_score(head, contrast)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The arguments of ``__init__`` from a yacs config, for Detectron2's ``build_model``."""
        from detclip2.modeling.yacs import arguments_from_yacs

        return arguments_from_yacs(cfg)

    @property
    def embed_dim(self) -> int:
        """D, the width of embeddings."""
        return self.head.region.out_channels

    def compilable_parts(self) -> list[nn.Module]:
        """Backbone and head; all else loops over phrases and boxes in Python."""
        return [self.backbone, self.head]

    @property
    def phrase_tokens(self) -> PhraseTokens | None:
        """Makes tokens of phrases, as the text tower would; None of a tower without a tokenizer."""
        tower = self.text_tower
        if tower is None or not hasattr(tower, "tokenizer"):
            return None
        return PhraseTokens(tower.tokenizer, tower.max_length)

    def encode_text(self, samples: Sequence[Sample]) -> TextBatch:
        """Encode each phrase alone; on data with boxes, processes share phrases (sec. 3.1)."""
        kind = supervision_of(samples)
        text = TextBatch.from_samples(samples, self.text_encoder)
        return text if kind == "caption" else text.gather()

    def encode_images(self, images: ImageList, text: TextBatch | None = None) -> HeadOutputs:
        """Backbone, pyramid and head (sec. 3.3), which read no text."""
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        return HeadOutputs(
            **self.head(levels),
            anchors=self.anchor_generator(levels),
            image_sizes=images.image_sizes,
            box2box_transform=self.box2box_transform,
            objectness_kind=self.head.objectness_kind,
        )

    def similarity(self, outputs: HeadOutputs, text: TextBatch) -> Tensor:
        """S, (B, K, M) logits (eq. 1)."""
        return self.align(outputs.regions, text.embeddings)

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: TextBatch,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """Alignment on data with boxes; on detection data box and centerness too (sec. 3.1)."""
        if self.has_contrast(samples):
            return {}
        losses = self._losses_for(samples)
        return losses(self.similarity(outputs, text), outputs, text, samples, counts)

    def loss_counts(self, outputs: HeadOutputs, text: TextBatch, samples: Sequence[Sample]) -> Any:
        """Of data with boxes: positive anchors and their centerness, over all processes."""
        if self.has_contrast(samples):
            return None
        return self._losses_for(samples).counts(outputs, text, samples)

    def _losses_for(self, samples: Sequence[Sample]) -> Any:
        return losses_for(samples, (self.box_losses, *self.extra_losses))

    def has_contrast(self, samples: Sequence[Sample]) -> bool:
        """Whether the samples are image-text pairs (sec. 3.2)."""
        is_caption = supervision_of(samples) == "caption"
        if is_caption and self.contrast is None:
            raise UserError("the model has no `contrast`, which image-text pairs need")
        return is_caption

    def contrast_regions(
        self, outputs: HeadOutputs, text: TextBatch, samples: Sequence[Sample]
    ) -> Proposals:
        """R proposals of each image (Tab. 2a)."""
        return self._contrast.regions(outputs, text, self.align)

    def contrast_losses(self, regions: Proposals, text: TextBatch) -> Losses:
        """Each phrase chooses a region in each image, and each text its image (eq. 2-5)."""
        return self._contrast.losses(regions, text, self.align)

    def chosen_regions(self, outputs: HeadOutputs, text: TextBatch) -> tuple[Tensor, Tensor]:
        """(M, B) indices of the regions that phrases choose; (B,) whether an image has any."""
        return self._contrast.chosen_regions(outputs, text, self.align)

    @property
    def _contrast(self) -> WordRegionContrast:
        return self.contrast or WordRegionContrast()

    def detect(
        self,
        images: ImageList,
        vocabularies: list[VocabularyState],
        thresholds: DetectionThresholds | None,
    ) -> list[Instances]:
        """S of each image with its vocabulary, thresholds and non-maximum suppression."""
        outputs = self.encode_images(images)
        return [
            self.postprocess(outputs, b, vocabulary, thresholds)
            for b, vocabulary in enumerate(vocabularies)
        ]


def _check_proposal_score(head: ATSSHead, contrast: WordRegionContrast | None) -> None:
    score = None if contrast is None else contrast.proposal_score
    if score in get_args(Objectness) and score != head.objectness_kind:
        raise UserError(
            f"contrast.proposal_score is {score!r}, which the head has to predict, but "
            f"head.objectness is {head.objectness_kind!r}; expected {score!r} there too"
        )
