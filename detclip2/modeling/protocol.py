"""The protocol of a model: all that engine, predictor, evaluators and commands call.

A model with these methods can be trained, evaluated and used by everything in this package. Code
outside of ``detclip2.modeling`` reads no part of a model by name.

Letters: B images, K anchors of an image, M phrases, D embedding width, R proposals of an image,
C labels of a vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.thresholds import DetectionThresholds

Sample: TypeAlias = Mapping[str, Any]
"""A sample in the format of ``detclip2.data.sample``."""
Losses: TypeAlias = dict[str, Tensor]
"""Name -> scalar, weighted."""
Text: TypeAlias = Any
"""`TextBatch` in a model that encodes phrases apart, `TokenBatch` in one that encodes captions."""


class ContrastRegions(Protocol):
    """What a loss over the whole batch reads of the images: `Proposals`, for example.

    Its gradients are computed in two passes if the batch does not fit into memory, see
    ``detclip2.engine.micro_batch``.
    """

    @staticmethod
    def join(parts: Sequence[Any]) -> Any:
        """Those of all images of a batch."""

    def with_gradient(self) -> list[Tensor]:
        """The tensors (B, ...) through which gradients reach the images."""

    def again(self, outputs: HeadOutputs, part: slice) -> list[Tensor]:
        """The tensors of `with_gradient` for a part of the images, of a second forward pass."""


@runtime_checkable
class OpenVocabularyModel(Protocol):
    """An ``nn.Module`` that detects the labels of a vocabulary. Its ``forward`` returns

    - in training, the `losses` of samples with one kind of supervision;
    - in evaluation, one ``{"instances": Instances}`` an image, for the vocabulary of
      `set_vocabulary`, as Detectron2's evaluation loop expects.
    """

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def embed_dim(self) -> int:
        """D, the width of embeddings."""

    @property
    def text_identity(self) -> str | None:
        """Name of the text encoder, stored with embeddings in files; None without an encoder."""

    @property
    def reads_names(self) -> bool:
        """Whether `prepare_vocabulary` reads names, which the model encodes together, instead of
        embeddings: `encode_phrases` then raises UserError.
        """

    predicts_masks: bool
    """Whether detections have ``pred_masks``; set to False, a model with a mask head saves its
    time."""

    @property
    def ignored_weights(self) -> tuple[str, ...]:
        """Prefixes of weights in a file that this model does not use."""

    def compilable_parts(self) -> list[nn.Module]:
        """Submodules that ``torch.compile`` may compile: tensors in, tensors out."""

    # Training.

    @property
    def phrase_tokens(self) -> Callable[[Sequence[str]], np.ndarray] | None:
        """Makes the ``phrase_tokens`` of a sample of its phrases, in the loader's workers.

        None for a model that reads none.
        """

    def encode_text(self, samples: Sequence[Sample]) -> Text:
        """Encode the text of B samples, each distinct phrase once.

        In a model that encodes phrases apart, on data with boxes, this joins the phrases of all
        processes, a collective operation.

        Raises:
            UserError: the model has no text tower.
        """

    def preprocess_image(
        self, samples: Sequence[Sample], batch: Sequence[Sample] | None = None
    ) -> ImageList:
        """Normalise and pad the images of B samples, and move them to the device.

        Args:
            samples: each has ``image`` (3, H, W).
            batch: samples whose images decide the padded size; by default those of ``samples``.
        """

    def encode_images(self, images: ImageList, text: Text | None = None) -> HeadOutputs:
        """Head outputs for B images, at K anchors each.

        Args:
            images: from `preprocess_image`.
            text: of the same B samples, for a model that fuses text into its head.
        """

    def losses(self, outputs: HeadOutputs, text: Text, samples: Sequence[Sample]) -> Losses:
        """All losses: those of `image_losses` and `contrast_losses`."""

    def image_losses(
        self,
        outputs: HeadOutputs,
        text: Text,
        samples: Sequence[Sample],
        counts: Any = None,
    ) -> Losses:
        """Losses that are sums over images; empty if the supervision has none.

        Args:
            outputs: for B images.
            text: of the B samples.
            samples: the B samples.
            counts: from `loss_counts`, if the samples are a part of a batch.
        """

    def loss_counts(self, outputs: HeadOutputs, text: Text, samples: Sequence[Sample]) -> Any:
        """Divisors of `image_losses` for a whole batch; may be a collective operation.

        Args:
            outputs: for any images of the batch; only the anchors, which they share, are read.
            text: of all samples.
            samples: the whole batch.
        """

    def has_contrast(self, samples: Sequence[Sample]) -> bool:
        """Whether this supervision has a loss over all images of the batch at once.

        Raises:
            UserError: the supervision needs one and the model has none.
        """

    def contrast_regions(
        self, outputs: HeadOutputs, text: Text, samples: Sequence[Sample]
    ) -> ContrastRegions:
        """The R regions of each of B images that `contrast_losses` reads."""

    def contrast_losses(self, regions: Any, text: Text) -> Losses:
        """Losses over the images of the whole batch at once; a collective operation.

        Args:
            regions: from `contrast_regions`, for all images of this process's batch.
            text: of all samples of this process.
        """

    # Inference.

    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings of M phrases, in evaluation mode and without gradient."""

    def prepare_vocabulary(self, vocabulary: Any) -> Any:
        """Prepare a vocabulary for `inference`: once, not for each image.

        Args:
            vocabulary: a `Vocabulary`, encoded unless the model reads names; C names; or, unless
                it reads names, their (C, D) embeddings.

        Returns:
            A state of the model's own type, valid until the weights change.
        """

    def set_vocabulary(self, vocabulary: Any, label_of_row: Tensor | None = None) -> None:
        """Set the vocabulary of ``forward`` in evaluation; see `prepare_vocabulary`."""

    def inference(
        self,
        samples: Sequence[Sample],
        vocabulary: Any = None,
        thresholds: DetectionThresholds | None = None,
    ) -> list[Instances]:
        """Detections of each image, in its original size, best first.

        They have ``pred_boxes``, ``scores``, ``pred_classes``, and ``pred_masks`` (N, H, W) bool if
        the model `predicts_masks`.

        Args:
            samples: each has ``image`` and optionally ``height`` and ``width``, the original size
                in px, and its own ``vocabulary``, prepared or not.
            vocabulary: from `prepare_vocabulary`, for samples without their own; None: that of
                `set_vocabulary`.
            thresholds: values that are None fall back to the model's.
        """


@runtime_checkable
class ExplainableModel(OpenVocabularyModel, Protocol):
    """A model that shows which region each phrase of a caption chooses."""

    def similarity(self, outputs: HeadOutputs, text: Text) -> Tensor:
        """(B, K, M) logits S of all regions and phrases."""

    def chosen_regions(self, outputs: HeadOutputs, text: Text) -> tuple[Tensor, Tensor]:
        """The region that each phrase chooses in each image, as in training on captions.

        Returns:
            (M, B) indices into the K anchors, and (B,) bool: whether the image has a proposal.
        """


@runtime_checkable
class LanguageModel(OpenVocabularyModel, Protocol):
    """A model that answers questions about images and writes captions."""

    def answer(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """Answer the ``question`` of each sample, whose supervision is "vqa".

        Returns:
            For each sample ``answers``, best first, ``probabilities``, each 0 to 1, and
            ``is_whole``, False for a question that is longer than the model reads.

        Raises:
            UserError: the model has not learnt to.
        """

    def caption(
        self, samples: Sequence[Sample], beam_size: int | None = None
    ) -> list[dict[str, Any]]:
        """Write a caption of the ``image`` of each sample.

        Args:
            samples: B of them.
            beam_size: texts that the search keeps; None: the model's number.

        Returns:
            For each sample ``caption``, ``log_probability``, and ``is_complete``, False for a
            caption that was cut.

        Raises:
            UserError: the model has not learnt to.
        """
