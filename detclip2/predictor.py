"""Pictures and names in, Instances with the caller's names out."""

import copy
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.data.transforms import Resize, ResizeShortestEdge
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from detclip2.config import InferenceSettings, build_model, inference_settings, load_config
from detclip2.data.image_io import ImageSource, read_image
from detclip2.data.names import Names
from detclip2.errors import UserError
from detclip2.modeling.weights import load_weights
from detclip2.vocabulary import Vocabulary

VocabularySource: TypeAlias = Vocabulary | Names | str | os.PathLike[str]

_FILES_OF_NAMES = (".txt", ".csv")
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, np.ndarray, Image.Image, torch.Tensor)


class Labels(list[str]):
    """The labels of detections; a list that, as other fields of Instances, takes a mask."""

    def __getitem__(self, item: Any) -> Any:
        """A string for a number; Labels for a slice, a mask or indices (tensor or array)."""
        if isinstance(item, torch.Tensor | np.ndarray) and item.ndim == 1:
            item = torch.as_tensor(item)
            chosen = item.nonzero().squeeze(1) if item.dtype == torch.bool else item
            return Labels(super(Labels, self).__getitem__(i) for i in chosen.tolist())
        found = super().__getitem__(item)
        return Labels(found) if isinstance(item, slice) else found


class OpenVocabularyPredictor:
    """Finds what you name in pictures::

        predictor = OpenVocabularyPredictor("config.py", "model.safetensors")
        predictor.set_vocabulary(["red apple", "fire engine"])
        instances = predictor("kitchen.jpg")
        instances.pred_boxes, instances.scores, instances.labels

    Images are RGB, however they come in: see :func:`detclip2.data.image_io.read_image`. What a
    call changes is nothing, so threads may share a predictor.

    **What the settings of a call mean**, in the order in which they act:

    - ``score_threshold``, in [0, 1]: pairs of box and name with a lower score are dropped.
    - ``nms_threshold``, in [0, 1]: of two boxes of one name whose overlap (IoU) is greater, the
      one with the lower score is dropped. 1 keeps all.
    - ``class_agnostic_nms``: boxes of different names suppress each other too, so that a place
      has one name.
    - ``max_detections``: so many of the best are kept, all names together.

    Args:
        config: a LazyConfig (.py, or .yaml as ``LazyConfig.save`` writes it), or one that is
            loaded; read are its nodes ``model`` and ``inference``.
        weights: a .safetensors file, or a torch file that needs no pickle; None leaves the model
            as its config makes it.
        device: "cpu", "cuda", ...; the GPU by default, where there is one.

    Raises:
        UserError: names the file or the key that is wrong.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any],
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        cfg, name = load_config(config)
        settings = inference_settings(cfg, name)
        model = build_model(cfg, name)
        if weights is not None:
            # For a model without text tower the weights of one are of no use.
            ignore = ("text_tower.",) if model.text_tower is None else ()
            load_weights(model, os.fspath(weights), ignore)
        self._set_up(model.to(_checked_device(device)), settings)

    @classmethod
    def from_model(cls, model: nn.Module, settings: InferenceSettings) -> "OpenVocabularyPredictor":
        """A predictor around a model that is there already, on the model's device.

        The model is put into evaluation mode. After training it further, make another predictor,
        because this one keeps the embeddings of its vocabulary.
        """
        predictor = cls.__new__(cls)
        predictor._set_up(model, settings)
        return predictor

    def _set_up(self, model: nn.Module, settings: InferenceSettings) -> None:
        self.model: Any = model.eval()
        self.settings = settings
        self.vocabulary: Vocabulary | None = None
        # Fast tokenizers of transformers cannot be called by two threads at once.
        self._text_lock = threading.Lock()

    def set_vocabulary(self, vocabulary: VocabularySource) -> None:
        """What to look for from now on; names are encoded here, once.

        Args:
            vocabulary: a list of names, of which each may be a list of synonyms; names in one
                string, separated by commas; a path to a .txt or .csv file of names or to a saved
                vocabulary (.safetensors); or a :class:`~detclip2.vocabulary.Vocabulary`.

        Raises:
            UserError: a name that cannot be one, or a vocabulary that does not fit the model.
        """
        self.vocabulary = self.encode(vocabulary)

    def encode(self, vocabulary: VocabularySource) -> Vocabulary:
        """A vocabulary with embeddings that fit this model, e.g. to save it.

        Raises:
            UserError: as :meth:`set_vocabulary`.
        """
        vocabulary = _to_vocabulary(vocabulary)
        tower = self.model.text_tower
        identity = "" if tower is None else tower.identity
        if vocabulary.is_encoded:
            encode = None if tower is None else self._encode_phrases
            vocabulary.check_fits(identity, self.model.embed_dim, encode)
            return vocabulary
        return vocabulary.encode(self._encode_phrases, identity)

    def _encode_phrases(self, phrases: list[str]) -> torch.Tensor:
        with self._text_lock:
            return self.model.encode_phrases(phrases)

    def __call__(
        self,
        images: Any,
        *,
        vocabulary: VocabularySource | None = None,
        vocabularies: Iterable[VocabularySource] | None = None,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        class_agnostic_nms: bool | None = None,
        max_detections: int | None = None,
    ) -> Any:
        """Detect.

        Args:
            images: one image, a list or tuple of them, or any other iterable, which is read as
                its results are asked for.
            vocabulary: what to look for in this call, in place of :meth:`set_vocabulary`.
            vocabularies: the same for each image; as many as images.
            score_threshold: see the class; None takes that of the config, here and below.
            nms_threshold: see the class.
            class_agnostic_nms: see the class.
            max_detections: see the class.

        Returns:
            For one image Instances of the image's own size (upright, where EXIF turns it), on the
            CPU, best first: ``pred_boxes`` XYXY px, ``scores`` in [0, 1], ``pred_classes`` indices
            into the labels of the vocabulary, ``labels``, the caller's strings. For a list a list
            of these, for another iterable a generator.

        Raises:
            UserError: no vocabulary is set; an image cannot be read; a setting is out of range;
                there are not as many vocabularies as images.
        """
        model = self._model_with(score_threshold, nms_threshold, class_agnostic_nms, max_detections)
        if vocabulary is not None and vocabularies is not None:
            raise UserError("give one `vocabulary` for all images or `vocabularies`, not both")
        one = isinstance(images, _ONE_IMAGE)
        if not one and not isinstance(images, Iterable):
            read_image(images)  # says what an image may be
        sources: Iterable[Any] = [images] if one else images
        if vocabularies is None:
            shared = self.vocabulary if vocabulary is None else self.encode(vocabulary)
            if shared is None:
                raise UserError("there is no vocabulary yet: call set_vocabulary(names) first")
            pairs: Iterable[tuple[Any, Vocabulary]] = ((source, shared) for source in sources)
        else:
            pairs = _paired(sources, map(self.encode, vocabularies))
        results = self._stream(model, pairs)
        if one:
            return next(results)
        return list(results) if isinstance(images, list | tuple) else results

    def _model_with(
        self,
        score_threshold: float | None,
        nms_threshold: float | None,
        class_agnostic_nms: bool | None,
        max_detections: int | None,
    ) -> Any:
        """The model with a call's own thresholds; a shallow copy, for other threads have theirs."""
        if score_threshold is None:
            score_threshold = self.settings.score_threshold
        for name, value in (("score", score_threshold), ("nms", nms_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name}_threshold is {value}; expected a number from 0 to 1")
        if max_detections is not None and max_detections < 1:
            raise UserError(f"max_detections is {max_detections}; expected at least 1")
        own = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "class_agnostic_nms": class_agnostic_nms,
            "max_detections": max_detections,
        }
        model = copy.copy(self.model)
        model.postprocess = copy.copy(self.model.postprocess)
        for name, value in own.items():
            if value is not None:
                setattr(model.postprocess, name, value)
        return model

    def _stream(
        self, model: Any, pairs: Iterable[tuple[ImageSource, Vocabulary]]
    ) -> Iterator[Instances]:
        """Results in order, holding `batch_size` images at a time."""
        remaining = iter(pairs)
        while chunk := list(itertools.islice(remaining, self.settings.batch_size)):
            samples = [self._sample(image, vocabulary) for image, vocabulary in chunk]
            outputs = self._detect(model, samples)
            for instances, (_, vocabulary) in zip(outputs, chunk, strict=True):
                classes = instances.pred_classes.tolist()
                instances.labels = Labels(vocabulary.labels[i] for i in classes)
                yield instances

    def _sample(self, source: ImageSource, vocabulary: Vocabulary) -> dict[str, Any]:
        """What the model reads of one image."""
        image = read_image(source)
        return {
            "image": self.resized(image),
            "height": image.shape[0],
            "width": image.shape[1],
            "vocabulary": vocabulary.embeddings,
            "label_of_row": vocabulary.label_of_row,
        }

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """An image (H, W, 3) in the size in which the model sees it, (3, h, w)."""
        height, width = image.shape[:2]
        new_size = ResizeShortestEdge.get_output_shape(
            height, width, self.settings.min_size, self.settings.max_size
        )
        # The short side of a strip of 1 x 10,000 pixels would round to nothing.
        new_size = tuple(max(1, length) for length in new_size)
        resized = Resize(new_size).get_transform(image).apply_image(image)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))

    @torch.no_grad()
    def _detect(self, model: Any, samples: list[dict[str, Any]]) -> list[Instances]:
        """Instances of each sample, on the CPU.

        Only images of one size go through the model together: padding one to the size of another
        changes what GroupNorm sees, and with it the detections.
        """
        of_size: dict[torch.Size, list[int]] = {}
        for i, sample in enumerate(samples):
            of_size.setdefault(sample["image"].shape, []).append(i)
        outputs: dict[int, Instances] = {}
        for members in of_size.values():
            results = model([samples[i] for i in members])
            for i, result in zip(members, results, strict=True):
                outputs[i] = result["instances"].to("cpu")
        return [outputs[i] for i in range(len(samples))]


def _to_vocabulary(source: VocabularySource) -> Vocabulary:
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and Path(source).suffix not in (*_FILES_OF_NAMES, ".safetensors"):
        return Vocabulary.from_text(source)
    if isinstance(source, str | os.PathLike):
        is_saved = Path(source).suffix == ".safetensors"
        return Vocabulary.load(source) if is_saved else Vocabulary.from_file(source)
    return Vocabulary.from_names(source)


def _paired(
    images: Iterable[Any], vocabularies: Iterable[Vocabulary]
) -> Iterator[tuple[Any, Vocabulary]]:
    nothing = object()
    for image, vocabulary in itertools.zip_longest(images, vocabularies, fillvalue=nothing):
        if image is nothing or vocabulary is nothing:
            raise UserError("there must be as many vocabularies as images")
        yield image, vocabulary  # type: ignore[misc]


def _checked_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise UserError(
            f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}"
        ) from None
    return device
