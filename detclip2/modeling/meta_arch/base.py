"""The base class of open-vocabulary meta-architectures: images, vocabulary, inference."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from detectron2.modeling import Backbone, detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.batching import PIXELS_AT_ONCE, pad_to, padded_size, same_size_groups
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.protocol import ContrastRegions, Losses, Sample
from detclip2.modeling.text.text_bank import TextBank, VocabularyState, prepared, rows_of
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError

RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)
Result = TypeVar("Result")


class OpenVocabularyDetector(nn.Module):
    """The part of `OpenVocabularyModel` that models share.

    A subclass sets ``backbone`` (images to features), ``text_tower`` (phrases to embeddings; None
    for a model that only reads encoded vocabularies) and ``align`` (computes S), in the order in
    which optimizers see their weights, then calls `set_anchors`, and implements the methods that
    raise NotImplementedError.

    A model whose S is not one of regions and embeddings (GLIP) has no ``align``; it sets
    ``reads_names`` and ``state_type``, and overrides `rows_of` and `prepare_rows`.

    Args:
        pixel_mean: RGB, 0..255.
        pixel_std: RGB, 0..255.
        vocabulary: names to detect until `set_vocabulary`, or a function that returns them when
            they are first needed.
    """

    input_format = "RGB"
    reads_names = False
    predicts_masks = False
    state_type: type = VocabularyState
    pixel_mean: Tensor
    pixel_std: Tensor
    backbone: Backbone
    text_tower: TokenTower | None
    align: Alignment

    def __init__(
        self,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        vocabulary: Sequence[str] | Callable[[], Sequence[str]],
    ) -> None:
        super().__init__()
        self.text_bank = TextBank(vocabulary)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    def set_anchors(
        self,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module | None = None,
        box2box_transform: Box2BoxTransform | None = None,
    ) -> None:
        """Set the anchors at the levels of the backbone that the head reads, and their coding.

        Args:
            head_in_features: names of the levels, finest first.
            anchor_generator: the anchors of each level; None: one square of 8 strides a location,
                as in ATSS.
            box2box_transform: box deltas to boxes; None: with the weights of ATSS.
        """
        self.head_in_features = tuple(head_in_features)
        shapes = self.backbone.output_shape()
        strides = cast(list[int], [shapes[f].stride for f in self.head_in_features])
        self.anchor_generator = anchor_generator or DefaultAnchorGenerator(
            sizes=[[8 * s] for s in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
        )
        self.box2box_transform = box2box_transform or Box2BoxTransform((10.0, 10.0, 5.0, 5.0))

    @property
    def device(self) -> torch.device:
        """Device of the model's buffers."""
        return self.pixel_mean.device

    @property
    def embed_dim(self) -> int:
        """D, the width of embeddings."""
        raise NotImplementedError

    @property
    def text_identity(self) -> str | None:
        """Name of the text encoder; None without one."""
        return None if self.text_tower is None else self.text_tower.identity

    @property
    def ignored_weights(self) -> tuple[str, ...]:
        """Prefixes of weights to ignore: in a model without a text tower, those of one."""
        return () if self.text_tower is not None else ("text_tower.",)

    def compilable_parts(self) -> list[nn.Module]:
        """The backbone; a subclass may have more."""
        return [self.backbone]

    def forward(self, samples: list[Sample]) -> Losses | list[dict[str, Any]]:
        """Losses in training; else one {"instances": Instances} an image, in its original size."""
        if not self.training:
            return [{"instances": found} for found in self.inference(samples)]
        text = self.encode_text(samples)
        outputs = self.encode_images(self.preprocess_image(samples), text)
        return self.losses(outputs, text, samples)

    def losses(self, outputs: HeadOutputs, text: Any, samples: Sequence[Sample]) -> Losses:
        """`image_losses`, and `contrast_losses` if the supervision has them."""
        losses = self.image_losses(outputs, text, samples)
        if self.has_contrast(samples):
            regions = self.contrast_regions(outputs, text, samples)
            losses = {**losses, **self.contrast_losses(regions, text)}
        return losses

    def preprocess_image(
        self, samples: Sequence[Sample], batch: Sequence[Sample] | None = None
    ) -> ImageList:
        """Normalise, pad to a common size that every stride divides, and batch.

        Args:
            samples: each has ``image`` (3, H, W) RGB in 0..255.
            batch: samples whose images decide the padded size; by default those of ``samples``.
        """
        images = [
            (sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for sample in samples
        ]
        divisor = self.backbone.size_divisibility
        padded = ImageList.from_tensors(images, divisor)
        if batch is None:
            return padded
        return pad_to(padded, padded_size([sample["image"] for sample in batch], divisor))

    @torch.no_grad()
    def inference(
        self,
        samples: Sequence[Sample],
        vocabulary: Any = None,
        thresholds: DetectionThresholds | None = None,
    ) -> list[Instances]:
        """Detections of each image in its original size, best first.

        Args:
            samples: each has ``image`` and optionally ``height`` and ``width``, the original size
                in px, ``vocabulary`` and ``label_of_row``, see `prepare_vocabulary`.
            vocabulary: for samples without their own; None: that of `set_vocabulary`.
            thresholds: values that are None fall back to the model's.

        Raises:
            UserError: there is no vocabulary; see also `prepare_vocabulary`.
        """
        states = self._states(samples, vocabulary)

        def detect(members: list[int]) -> list[Instances]:
            images = self.preprocess_image([samples[i] for i in members])
            detected = self.detect(images, [states[i] for i in members], thresholds)
            return [
                in_original_size(instances, samples[i])
                for i, instances in zip(members, detected, strict=True)
            ]

        return self.by_size(samples, detect)

    def by_size(
        self, samples: Sequence[Sample], run: Callable[[list[int]], list[Result]]
    ) -> list[Result]:
        """The results of ``run``, which gets indices of samples of one padded size at a time."""
        found: dict[int, Result] = {}
        limit = PIXELS_AT_ONCE.get(self.device.type)
        for members in same_size_groups(samples, self.backbone.size_divisibility, limit):
            found.update(zip(members, run(members), strict=True))
        return [found[i] for i in range(len(samples))]

    def _states(self, samples: Sequence[Sample], vocabulary: Any) -> list[Any]:
        """The prepared vocabulary of each sample; one that samples share is prepared once."""
        states: dict[tuple[int, int], Any] = {}
        keys = []
        for sample in samples:
            own, label_of_row = sample.get("vocabulary"), sample.get("label_of_row")
            key = (id(own), id(label_of_row)) if own is not None else (0, 0)
            keys.append(key)
            if key in states:
                continue
            if own is not None:
                states[key] = self.prepare_vocabulary(own, label_of_row)
            elif vocabulary is not None:
                states[key] = self.prepare_vocabulary(vocabulary)
            else:
                states[key] = self.text_bank.state(self.prepare_rows)
        return [states[key] for key in keys]

    def prepare_vocabulary(self, vocabulary: Any, label_of_row: Tensor | None = None) -> Any:
        """Prepare a vocabulary for `inference`; the result is valid until the weights change.

        Args:
            vocabulary: C names, their (C, D) embeddings, an encoded `Vocabulary`, or a state, which
                is returned.
            label_of_row: (V,) int64 in [0, C), ascending: the label of each of V rows, if labels
                have several. The score of a label is that of its best row.

        Raises:
            UserError: embeddings are not D wide; names without a text tower.
        """
        if isinstance(vocabulary, self.state_type):
            return vocabulary
        return self.prepare_rows(*self.rows_of(vocabulary, label_of_row))

    def set_vocabulary(self, vocabulary: Any, label_of_row: Tensor | None = None) -> None:
        """Set the vocabulary to detect; arguments as in `prepare_vocabulary`.

        Names are encoded when they are first needed, and again after the weights have changed.

        Raises:
            UserError: embeddings are not D wide.
        """
        self.text_bank.set(*self.rows_of(vocabulary, label_of_row))

    def rows_of(
        self, vocabulary: Any, label_of_row: Tensor | None = None
    ) -> tuple[Sequence[str] | Tensor, Tensor | None]:
        """The R rows of a vocabulary, names or embeddings, and the label of each."""
        return rows_of(vocabulary, label_of_row, self.embed_dim)

    def prepare_rows(self, rows: Sequence[str] | Tensor, label_of_row: Tensor | None) -> Any:
        """The state for `detect` of the result of `rows_of`."""
        return prepared(rows, label_of_row, self.encode_phrases, self.align)

    @property
    def vocabulary(self) -> Tensor:
        """(V, D) embeddings of the V rows of the vocabulary, not normalised.

        Raises:
            UserError: there is no vocabulary, or no text tower to encode it.
        """
        return self.text_bank.state(self.prepare_rows).embeddings

    @property
    def text_encoder(self) -> Any:
        """The text tower.

        Raises:
            UserError: the model has none.
        """
        if self.text_tower is None:
            raise UserError(
                "the model has no text tower: give it a vocabulary that is encoded already, or set "
                "model.text_tower in the config"
            )
        return self.text_tower

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings of M phrases for a vocabulary, without gradient.

        Raises:
            UserError: the model has no text tower.
        """
        return self.text_encoder.encode_phrases(phrases)

    @property
    def phrase_tokens(self) -> Any:
        """See `OpenVocabularyModel`; None: captions are made of phrases in `encode_text`."""
        return None

    def encode_text(self, samples: Sequence[Sample]) -> Any:
        """See `OpenVocabularyModel`."""
        raise NotImplementedError

    def encode_images(self, images: ImageList, text: Any = None) -> HeadOutputs:
        """See `OpenVocabularyModel`."""
        raise NotImplementedError

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: Any,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """See `OpenVocabularyModel`."""
        raise NotImplementedError

    def loss_counts(self, outputs: HeadOutputs, text: Any, samples: Sequence[Sample]) -> Any:
        """See there."""
        raise NotImplementedError

    def has_contrast(self, samples: Sequence[Sample]) -> bool:
        """See `OpenVocabularyModel`."""
        return False

    def contrast_regions(
        self, outputs: HeadOutputs, text: Any, samples: Sequence[Sample]
    ) -> ContrastRegions:
        """See `OpenVocabularyModel`."""
        raise NotImplementedError

    def contrast_losses(self, regions: Any, text: Any) -> Losses:
        """See `OpenVocabularyModel`."""
        raise NotImplementedError

    def detect(
        self,
        images: ImageList,
        vocabularies: list[Any],
        thresholds: DetectionThresholds | None,
    ) -> list[Instances]:
        """Detections of B images of one padded size, not rescaled, each for its own vocabulary."""
        raise NotImplementedError


def in_original_size(instances: Instances, sample: Sample) -> Instances:
    """Detections in the ``height`` and ``width`` of the sample, if it has them."""
    height, width = instances.image_size
    return detector_postprocess(instances, sample.get("height", height), sample.get("width", width))
