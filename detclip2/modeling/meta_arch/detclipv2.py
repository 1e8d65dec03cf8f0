"""DetCLIPv2 (arXiv 2304.04514): the meta-architecture, as in the paper's figure 2."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, detector_postprocess
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn

from detclip2.inference.prompt_ensemble import batches_of
from detclip2.modeling.alignment import Align, Alignment, MaxOverSynonyms
from detclip2.modeling.heads.atss_head import ATSSHead, Objectness, Predictions
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.text.text_batch import PhraseBatch, gather_phrases
from detclip2.modeling.text.text_tower import TextTower
from detclip2.utils.errors import UserError

Sample = dict[str, Any]

PIXELS_AT_ONCE = {"cpu": 2**20}
"""Of the images that go through the network together in inference; elsewhere there is no limit.
More of them overflow a processor's caches, and each image takes longer."""


@META_ARCH_REGISTRY.register()
class DetCLIPv2(nn.Module):
    """Regions and phrases meet in one similarity S; what teaches it depends on the source.

    A batch in training comes from one source. Its samples have the format of
    ``detclip2.data.sample``: ``image`` (3, H, W) RGB in 0..255, ``source``, ``phrases``,
    ``num_positives``, and ``instances`` unless it is a caption.

    Args:
        backbone: images to a pyramid of features.
        head: pyramid to region embeddings, boxes and centerness.
        text_tower: phrases to embeddings; None for a model that only takes ready vocabularies.
        align: S from regions and phrases.
        box_losses: what boxes teach.
        contrast: what image-text pairs teach; None for a model without them.
        postprocess: S and boxes to detections.
        in_features: the levels of the pyramid that the head sees.
        pixel_mean: RGB, 0..255.
        pixel_std: RGB, 0..255.
        vocabulary: names to detect until :meth:`set_vocabulary` says otherwise.

    Raises:
        UserError: the contrast chooses proposals by an output that the head does not have.
    """

    input_format = "RGB"
    pixel_mean: Tensor
    pixel_std: Tensor

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
        postprocess: PostProcess,
        in_features: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        vocabulary: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.text_tower = text_tower
        self.align = align
        self.box_losses = box_losses
        self.contrast = contrast
        self.postprocess = postprocess
        _check_proposal_score(head, contrast)
        self.in_features = tuple(in_features)
        strides = [backbone.output_shape()[f].stride for f in self.in_features]
        # One square anchor of 8 strides at every location (ATSS).
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[8 * stride] for stride in strides],
            aspect_ratios=[[1.0]],
            strides=strides,
            offset=0.5,
        )
        self.box_transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        self._names: Sequence[str] = tuple(vocabulary)
        self._vocabulary: Tensor | None = None
        self._label_of_row: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The arguments of ``__init__`` from a yacs config, for Detectron2's ``build_model``."""
        from detclip2.modeling.yacs import arguments_from_yacs

        return arguments_from_yacs(cfg)

    @property
    def device(self) -> torch.device:
        """Where the model is; it has no say in it."""
        return self.pixel_mean.device

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.head.region.out_channels

    def forward(self, samples: list[Sample]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training; else one {"instances": Instances} an image, in its original size."""
        if not self.training:
            return self.detect(samples)
        source = _source(samples)
        images = self.preprocess_images(samples)
        predictions, anchors = self.predict(images)
        batch = PhraseBatch.from_samples(samples)
        phrases = self.text(batch.phrases)
        if source == "caption":
            return self.learn_from_captions(batch, phrases, predictions, anchors, images)
        return self.learn_from_boxes(samples, batch, phrases, predictions, anchors)

    def predict(self, images: ImageList) -> tuple[Predictions, list[Boxes]]:
        """What the head says of B images, and its anchors, one entry a level."""
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.in_features]
        return self.head(levels), self.anchor_generator(levels)

    def learn_from_boxes(
        self,
        samples: list[Sample],
        batch: PhraseBatch,
        phrases: Tensor,
        predictions: Predictions,
        anchors: list[Boxes],
    ) -> dict[str, Tensor]:
        """Detection and grounding (sec. 3.1): phrases of all processes are everyone's negatives."""
        batch, phrases = gather_phrases(batch, phrases)
        similarity = self.align(predictions.regions, phrases)  # (B, K, M_B)
        return self.box_losses(
            samples,
            batch,
            similarity,
            predictions,
            anchors,
            self.box_transform,
            self.head.objectness_kind,
        )

    def learn_from_captions(
        self,
        batch: PhraseBatch,
        phrases: Tensor,
        predictions: Predictions,
        anchors: list[Boxes],
        images: ImageList,
    ) -> dict[str, Tensor]:
        """Image-text pairs (sec. 3.2): each word finds its region, and pairs are contrasted."""
        if self.contrast is None:
            raise UserError("the model has no `contrast`, which samples of source 'caption' need")
        return self.contrast(
            predictions=predictions,
            boxes=self.decode(predictions, anchors, images),
            batch=batch,
            phrases=phrases,
            align=self.align,
        )

    @torch.no_grad()
    def detect(self, samples: list[Sample]) -> list[dict[str, Any]]:
        """Detections for the vocabulary, or for a sample's own ``vocabulary``: names or (C, D).

        With an own vocabulary may come its ``label_of_row``, see :meth:`set_vocabulary`.
        """
        results: dict[int, dict[str, Any]] = {}
        for members in self._batches(samples):
            group = [samples[i] for i in members]
            images = self.preprocess_images(group)
            predictions, anchors = self.predict(images)
            all_anchors = Boxes.cat(anchors).tensor
            for i, sample, size, regions, deltas, centerness in zip(
                members,
                group,
                images.image_sizes,
                predictions.regions,
                predictions.deltas,
                predictions.centerness,
                strict=True,
            ):
                instances = self.postprocess(
                    regions,
                    deltas,
                    centerness,
                    all_anchors,
                    self._vocabulary_of(sample),
                    self._align_of(sample),
                    self.box_transform,
                    size,
                )
                height, width = sample.get("height", size[0]), sample.get("width", size[1])
                results[i] = {"instances": detector_postprocess(instances, height, width)}
        return [results[i] for i in range(len(samples))]

    def _batches(self, samples: list[Sample]) -> Iterator[list[int]]:
        """The samples that go through the network together.

        They are padded to one size: normalisation over groups sees the padding too, and what is
        found in an image must not depend on the others of its batch.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(self._padded_size(sample["image"]), []).append(i)
        limit = PIXELS_AT_ONCE.get(self.device.type)
        for size, members in groups.items():
            number = len(members) if limit is None else max(1, limit // math.prod(size))
            for i in range(0, len(members), number):
                yield members[i : i + number]

    def _vocabulary_of(self, sample: Sample) -> Tensor:
        own = sample.get("vocabulary")
        if own is None:
            return self.vocabulary
        return own.to(self.device) if isinstance(own, Tensor) else self.encode_phrases(own)

    def _align_of(self, sample: Sample) -> Align:
        """Gives S with the rows of the sample's vocabulary, or with labels of several rows."""
        has_own = sample.get("vocabulary") is not None
        label_of_row = sample.get("label_of_row") if has_own else self._label_of_row
        if label_of_row is None:
            return self.align
        return MaxOverSynonyms(self.align, label_of_row.to(self.device))

    def _padded_size(self, image: Tensor) -> tuple[int, ...]:
        step = max(self.backbone.size_divisibility, 1)
        return tuple(-(-length // step) * step for length in image.shape[-2:])

    def preprocess_images(self, samples: list[Sample]) -> ImageList:
        """Normalise, pad to a common size that every stride divides, and batch."""
        images = [
            (sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for sample in samples
        ]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    @torch.no_grad()
    def decode(self, predictions: Predictions, anchors: list[Boxes], images: ImageList) -> Tensor:
        """Boxes (B, K, 4) of all predictions, clipped to their images, without gradient."""
        all_anchors = Boxes.cat(anchors).tensor
        batch_size = len(predictions.deltas)
        boxes = self.box_transform.apply_deltas(
            predictions.deltas.detach().float().flatten(0, 1), all_anchors.repeat(batch_size, 1)
        ).view(batch_size, -1, 4)
        sizes = boxes.new_tensor(images.image_sizes)  # (B, 2) height, width
        return boxes.clamp(min=0).minimum(sizes[:, [1, 0, 1, 0]].unsqueeze(1))

    def text(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings of M phrases."""
        if self.text_tower is None:
            raise UserError("the model has no text tower: give it a vocabulary of ready embeddings")
        return self.text_tower(phrases)

    @torch.no_grad()
    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings for :meth:`set_vocabulary`, computed as in inference."""
        if self.text_tower is None or not self.text_tower.training:
            return torch.cat([self.text(batch) for batch in batches_of(phrases)])
        self.text_tower.eval()
        try:
            return self.encode_phrases(phrases)
        finally:
            self.text_tower.train()

    def set_vocabulary(
        self, vocabulary: Sequence[str] | Tensor, label_of_row: Tensor | None = None
    ) -> None:
        """What to detect from now on: C names, or their (C, D) embeddings.

        Names are encoded when they are first needed, and again after the weights have changed.

        Args:
            vocabulary: the names or embeddings.
            label_of_row: where a label has several embeddings and scores as the best of them: the
                label of each row, int64 in [0, C), ascending.

        Raises:
            UserError: embeddings of another width than D.
        """
        if isinstance(vocabulary, Tensor):
            if vocabulary.dim() != 2 or vocabulary.shape[1] != self.embed_dim:
                raise UserError(
                    f"the vocabulary is {tuple(vocabulary.shape)}; expected (C, {self.embed_dim})"
                )
            self._names, self._vocabulary = (), vocabulary
        else:
            self._names, self._vocabulary = tuple(vocabulary), None
        self._label_of_row = label_of_row

    @property
    def vocabulary(self) -> Tensor:
        """(C, D) embeddings of the names to detect."""
        if self._vocabulary is None:
            if not self._names:
                raise UserError("the model has no vocabulary: call set_vocabulary(names) first")
            self._vocabulary = self.encode_phrases(self._names)
        return self._vocabulary.to(self.device)

    def train(self, mode: bool = True) -> "DetCLIPv2":
        """Training changes the text tower, so embeddings of names are dropped."""
        if mode and self._names:
            self._vocabulary = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self._names:
            self._vocabulary = None


def _check_proposal_score(head: ATSSHead, contrast: WordRegionContrast | None) -> None:
    score = None if contrast is None else contrast.proposal_score
    if score in get_args(Objectness) and score != head.objectness_kind:
        raise UserError(
            f"contrast.proposal_score is {score!r}, which the head has to predict, but "
            f"head.objectness is {head.objectness_kind!r}; expected {score!r} there too"
        )


def _source(samples: list[Sample]) -> str:
    sources = {sample["source"] for sample in samples}
    if len(sources) != 1:
        raise ValueError(f"a batch must come from one source, but this one has {sorted(sources)}")
    return sources.pop()
