"""Pictures and names in, Instances with the caller's names out."""

import copy
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.data.transforms import Resize, ResizeShortestEdge
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from detclip2.config import InferenceSettings, build_model, inference_settings, load_config
from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.io.video import Video, is_video
from detclip2.data.text.names import Names, check_names
from detclip2.inference.results import Labels
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.thresholds import Selection
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import default_model
from detclip2.utils.weights import load_weights

VocabularySource: TypeAlias = Vocabulary | Names | str | os.PathLike[str]

_FILES_OF_NAMES = (".txt", ".csv")
_VOCABULARIES_KEPT = 64  # of one call that has one an image; a vocabulary of LVIS takes 1.2 MB
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, np.ndarray, Image.Image, torch.Tensor)


class OpenVocabularyPredictor:
    """Finds what you name in pictures::

        predictor = OpenVocabularyPredictor()  # or (config, weights)
        predictor.set_vocabulary(["red apple", "fire engine"])
        instances = predictor("kitchen.jpg")
        instances.pred_boxes, instances.scores, instances.labels

    Images are RGB, however they come in: see :func:`detclip2.data.io.image.read_image`. What a
    call changes is nothing, so threads may share a predictor.

    Four settings decide which detections are returned: see :mod:`detclip2.modeling.thresholds` and
    docs/inference.md. Each is what the call says, else what is said here, else what the
    config says under ``inference``, else what its model has.

    Args:
        config: a LazyConfig (.py, or .yaml as ``LazyConfig.save`` writes it), or one that is
            loaded; read are its nodes ``model`` and ``inference``. None takes config and weights
            of :func:`~detclip2.utils.model_folder.default_model`: what ships with the package.
        weights: a .safetensors file, or a torch file that needs no pickle; None leaves the model
            as its config makes it.
        device: "cpu", "cuda", ...; the GPU by default, where there is one.
        score_threshold: see :mod:`detclip2.modeling.thresholds`, here and for the next three.
        nms_threshold: see there.
        class_agnostic_nms: see there.
        max_detections: see there.
        batch_size: how many images are read, and go through the model, at once; None takes that
            of the config.

    Raises:
        UserError: names the file or the key that is wrong.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        class_agnostic_nms: bool | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if config is None:
            if weights is not None:
                raise UserError("weights without a config: give the config they were trained with")
            config, weights = default_model()
        own = Selection(score_threshold, nms_threshold, class_agnostic_nms, max_detections)
        cfg, name = load_config(config)
        settings = inference_settings(cfg, name)
        settings = replace(settings, **vars(own.or_else(Selection.of(settings))))
        if batch_size is not None:
            if batch_size < 1:
                raise UserError(f"batch_size is {batch_size}; expected at least 1")
            settings = replace(settings, batch_size=batch_size)
        model = build_model(cfg, name)
        if weights is not None:
            # For a model without text tower the weights of one are of no use.
            ignore = ("text_tower.",) if model.text_tower is None else ()
            load_weights(model, os.fspath(weights), ignore)
        self._set_up(model.to(checked_device(device)), settings)

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
        self.selection = Selection.of(settings)
        self.vocabulary: Vocabulary | None = None
        # Fast tokenizers of transformers cannot be called by two threads at once.
        self._text_lock = threading.Lock()

    def set_vocabulary(self, vocabulary: VocabularySource) -> None:
        """What to look for from now on; names are encoded here, once.

        Args:
            vocabulary: a list of names, of which each may be a list of synonyms; names in one
                string, separated by commas; a path to a .txt or .csv file of names or to a saved
                vocabulary (.safetensors); or a :class:`~detclip2.inference.vocabulary.Vocabulary`.

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
                its results are asked for; or the path of a video, whose frames are read so.
            vocabulary: what to look for in this call, in place of :meth:`set_vocabulary`.
            vocabularies: the same for each image; as many as images. Those that are equal are
                encoded once.
            score_threshold: see :mod:`detclip2.modeling.thresholds`; None takes the predictor's
                own, here and below.
            nms_threshold: see there.
            class_agnostic_nms: see there.
            max_detections: see there.

        Returns:
            For one image Instances of the image's own size (upright, where EXIF turns it), on the
            CPU, best first: ``pred_boxes`` XYXY px, ``scores`` in [0, 1], ``pred_classes`` indices
            into the labels of the vocabulary, ``labels``, the caller's strings. For a list a list
            of these, for another iterable or a video a generator, which holds ``batch_size``
            images at a time.

        Raises:
            UserError: no vocabulary is set; an image cannot be read; a setting is out of range;
                there are not as many vocabularies as images.
        """
        own = Selection(score_threshold, nms_threshold, class_agnostic_nms, max_detections)
        model = self._model_with(own.or_else(self.selection))
        if is_video(images):
            images = Video(images)
        one = isinstance(images, _ONE_IMAGE)
        if not one and not isinstance(images, Iterable):
            read_image(images)  # says what an image may be
        sources: Iterable[Any] = [images] if one else images
        results = self._stream(model, self._paired(sources, vocabulary, vocabularies))
        if one:
            return next(results)
        return list(results) if isinstance(images, list | tuple) else results

    def _paired(
        self,
        images: Iterable[Any],
        vocabulary: VocabularySource | None,
        vocabularies: Iterable[VocabularySource] | None,
    ) -> Iterable[tuple[Any, Vocabulary]]:
        """Each image with what to look for in it."""
        if vocabularies is None:
            shared = self.vocabulary if vocabulary is None else self.encode(vocabulary)
            if shared is None:
                raise UserError("there is no vocabulary yet: call set_vocabulary(names) first")
            return ((image, shared) for image in images)
        if vocabulary is not None:
            raise UserError("give one `vocabulary` for all images or `vocabularies`, not both")
        if isinstance(vocabularies, str | os.PathLike | Vocabulary):
            raise UserError("`vocabularies` is a list with one for each image")
        if isinstance(images, Sized) and isinstance(vocabularies, Sized):
            _check_counts(len(images) == len(vocabularies))
        return _zip_equal(images, self._each_once(vocabularies))

    def _each_once(self, sources: Iterable[VocabularySource]) -> Iterator[Vocabulary]:
        """The vocabularies with embeddings, in their order; equal ones are encoded once."""
        # The source is kept beside the result, so that no other object can get its id.
        known: dict[Any, tuple[VocabularySource, Vocabulary]] = {}
        for source in sources:
            if not isinstance(source, Vocabulary | str | os.PathLike):
                source = tuple(check_names(source))
            # Vocabularies with equal names may have different embeddings.
            key = id(source) if isinstance(source, Vocabulary) else source
            if key not in known:
                if len(known) == _VOCABULARIES_KEPT:
                    del known[next(iter(known))]
                known[key] = source, self.encode(source)
            yield known[key][1]

    def _model_with(self, selection: Selection) -> Any:
        """The model with a call's own settings; a shallow copy, for other threads have theirs."""
        model = copy.copy(self.model)
        model.postprocess = selection.applied(self.model.postprocess)
        return model

    def _stream(
        self, model: Any, pairs: Iterable[tuple[ImageSource, Vocabulary]]
    ) -> Iterator[Instances]:
        """Results in order, holding `batch_size` images at a time."""
        remaining = iter(pairs)
        while chunk := list(itertools.islice(remaining, self.settings.batch_size)):
            samples = [self._sample(image, vocabulary) for image, vocabulary in chunk]
            labels = [vocabulary.labels for _, vocabulary in chunk]
            with torch.no_grad():
                outputs = model(samples)
            del chunk, samples  # while the caller is busy, only results are held
            for output, names in zip(outputs, labels, strict=True):
                instances = output["instances"].to("cpu")
                instances.labels = Labels(names[i] for i in instances.pred_classes.tolist())
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


def _to_vocabulary(source: VocabularySource) -> Vocabulary:
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and Path(source).suffix not in (*_FILES_OF_NAMES, ".safetensors"):
        return Vocabulary.from_text(source)
    if isinstance(source, str | os.PathLike):
        is_saved = Path(source).suffix == ".safetensors"
        return Vocabulary.load(source) if is_saved else Vocabulary.from_file(source)
    return Vocabulary.from_names(source)


def _zip_equal(
    images: Iterable[Any], vocabularies: Iterable[Vocabulary]
) -> Iterator[tuple[Any, Vocabulary]]:
    nothing = object()
    for image, vocabulary in itertools.zip_longest(images, vocabularies, fillvalue=nothing):
        _check_counts(image is not nothing and vocabulary is not nothing)
        yield image, vocabulary  # type: ignore[misc]


def _check_counts(equal: bool) -> None:
    if not equal:
        raise UserError("there must be as many vocabularies as images")
