"""The predictor: images and a vocabulary in, Instances with labels out."""

import itertools
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from detectron2.data.transforms import Resize, ResizeShortestEdge
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from detclip2.config import InferenceSettings, build_model, inference_settings, load_model_config
from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.io.video import Video, is_video
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.names import BUILTIN_NAMES, Names, check_names
from detclip2.inference.results import Labels
from detclip2.inference.vocabulary import Vocabulary
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import SHIPPED, default_model, knowledge, read_model_folder
from detclip2.utils.weights import load_weights

VocabularySource: TypeAlias = Vocabulary | CaptionPhrases | Names | str | os.PathLike[str]

_FILES_OF_NAMES = (".txt", ".csv", ".json")
_VOCABULARIES_KEPT = 64  # in a call with one for each image; LVIS's takes 1.2 MB
_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, np.ndarray, Image.Image, torch.Tensor)


class OpenVocabularyPredictor:
    """Detects a vocabulary in images::

        predictor = OpenVocabularyPredictor()  # or ("emoji_nano"), (folder), (config, weights)
        predictor.set_vocabulary(["red apple", "fire engine"])
        instances = predictor("kitchen.jpg")
        instances.pred_boxes, instances.scores, instances.labels

    Images are RGB, of any type that `detclip2.data.io.image.read_image` accepts. Calls do not
    modify the predictor, so threads may share one.

    Four settings decide which detections are returned: ``score_threshold``, ``nms_threshold``,
    ``class_agnostic_nms`` and ``max_detections`` of `DetectionThresholds` (docs/inference.md). Give
    them by these names, or as one ``thresholds`` object. Each is taken from the call, else from
    this constructor, else from ``inference`` in the config, else from the model.

    Args:
        config: a LazyConfig with nodes ``model`` and ``inference``: its file (.py, or .yaml as
            ``LazyConfig.save`` writes it), or a loaded one. Without weights also a model folder,
            or the name of a model that ships, as `read_model_folder` takes them. None: config and
            weights of `default_model`.
        weights: a .safetensors file, or a torch file that needs no pickle; None keeps the model
            as its config builds it.
        device: "cpu", "cuda", ...; None: the GPU, if there is one.
        thresholds: the four settings; None: all fall back to the next level.
        batch_size: how many images are read and processed at once; None: that of the config.
        trust_config: let a .yaml config build anything that it names, see docs/trust.md.
        **overrides: some of the four settings by name; they override ``thresholds``.

    Raises:
        UserError: a file or a key is wrong; the message names it.

    Warns:
        UserWarning: of the default model, what it has learnt, if its config says so (``knows``).
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        *,
        thresholds: DetectionThresholds | None = None,
        batch_size: int | None = None,
        trust_config: bool = False,
        **overrides: Any,
    ) -> None:
        if config is None:
            if weights is not None:
                raise UserError("weights without a config: give the config they were trained with")
            config, weights = default_model()
            if known := knowledge(config):
                warnings.warn(known, UserWarning, stacklevel=2)
        elif weights is None and _is_model(config):
            config, weights = read_model_folder(config)
        own = _thresholds(thresholds, overrides)
        cfg, name = load_model_config(config, trust_config)
        settings = inference_settings(cfg, name)
        settings = replace(settings, thresholds=own.or_else(settings.thresholds))
        if batch_size is not None:
            if batch_size < 1:
                raise UserError(f"batch_size is {batch_size}; expected at least 1")
            settings = replace(settings, batch_size=batch_size)
        model: Any = build_model(cfg, name)
        if weights is not None:
            load_weights(model, os.fspath(weights), model.ignored_weights)
        self._set_up(model.to(checked_device(device)), settings)

    @classmethod
    def from_model(cls, model: nn.Module, settings: InferenceSettings) -> "OpenVocabularyPredictor":
        """A predictor for a model that is already built, on the model's device.

        The model is set to evaluation mode. Make another predictor after further training, because
        this one keeps the embeddings of its vocabulary.

        Args:
            model: an `OpenVocabularyModel`.
            settings: sizes, thresholds and batch size.
        """
        predictor = cls.__new__(cls)
        predictor._set_up(model, settings)
        return predictor

    def _set_up(self, model: nn.Module, settings: InferenceSettings) -> None:
        self.model: Any = model.eval()
        self.settings = settings
        self._prepared: tuple[Vocabulary, Any] | None = None  # with the model's state for it
        # Fast tokenizers of transformers cannot be called by two threads at once.
        self._text_lock = threading.Lock()

    def set_vocabulary(self, vocabulary: VocabularySource) -> None:
        """Set the vocabulary of later calls; names are encoded here, once.

        Args:
            vocabulary: a list of names, each of which may be a list of synonyms; names in one
                string, separated by commas; a path to a file of names (.txt, .csv, or a COCO .json)
                or to a saved vocabulary (.safetensors); a `Vocabulary`; or `CaptionPhrases`.

        Raises:
            UserError: a name is invalid; a string is the name of a built-in list ("coco"), which
                may mean the list (`Vocabulary.builtin`) or a thing (``["coco"]``); or the
                vocabulary does not fit the model.
        """
        self._prepared = self._prepare(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary to detect; None before `set_vocabulary`."""
        return None if self._prepared is None else self._prepared[0]

    @property
    def thresholds(self) -> DetectionThresholds:
        """The predictor's own settings; those that are None fall back to the model's."""
        return self.settings.thresholds

    def _prepare(self, vocabulary: VocabularySource) -> tuple[Vocabulary, Any]:
        encoded = self.encode(vocabulary)
        is_read_whole = isinstance(vocabulary, CaptionPhrases) and self.model.reads_names
        with self._text_lock:
            return encoded, self.model.prepare_vocabulary(vocabulary if is_read_whole else encoded)

    def encode(self, vocabulary: VocabularySource) -> Vocabulary:
        """Encode a vocabulary with this model, e.g. to save it.

        Raises:
            UserError: as `set_vocabulary`.
        """
        return _to_vocabulary(vocabulary).encode_with(self.model, self._encode_phrases)

    def _encode_phrases(self, phrases: list[str]) -> torch.Tensor:
        with self._text_lock:
            return self.model.encode_phrases(phrases)

    def __call__(
        self,
        images: Any,
        *,
        caption: str | None = None,
        vocabulary: VocabularySource | None = None,
        vocabularies: Iterable[VocabularySource] | None = None,
        thresholds: DetectionThresholds | None = None,
        **overrides: Any,
    ) -> Any:
        """Detect the labels of a vocabulary in images.

        Args:
            images: one image; a list or tuple of images; or any other iterable of images or the
                path of a video, which are read lazily.
            caption: a sentence, whose noun phrases are the vocabulary of this call, see
                `CaptionPhrases.find`; GLIP reads it whole.
            vocabulary: for this call, instead of that of `set_vocabulary`.
            vocabularies: one for each image; equal ones are encoded once.
            thresholds: the four settings; None: all fall back to the predictor's.
            **overrides: some of the four settings by name; they override ``thresholds``.

        Returns:
            Instances for one image, in its own size (upright if EXIF rotates it), on the CPU, best
            first: ``pred_boxes`` XYXY px, ``scores`` in [0, 1], ``pred_classes`` indices into the
            labels of the vocabulary, and ``labels``, the caller's strings. A list of these for a
            list or tuple; a generator, which holds ``batch_size`` images at a time, for any other
            iterable or a video.

        Raises:
            UserError: no vocabulary is set; an image cannot be read; a setting is out of range;
                there are not as many vocabularies as images.
        """
        chosen = _thresholds(thresholds, overrides).or_else(self.thresholds)
        if caption is not None:
            if vocabulary is not None or vocabularies is not None:
                raise UserError("give a caption or a vocabulary, not both")
            vocabulary = CaptionPhrases.find(caption)
        if is_video(images):
            images = Video(images)
        one = isinstance(images, _ONE_IMAGE)
        if not one and not isinstance(images, Iterable):
            read_image(images)  # raises, and lists the accepted types
        sources: Iterable[Any] = [images] if one else images
        results = self._stream(chosen, self._with_vocabularies(sources, vocabulary, vocabularies))
        if one:
            return next(results)
        return list(results) if isinstance(images, list | tuple) else results

    def _with_vocabularies(
        self,
        images: Iterable[Any],
        vocabulary: VocabularySource | None,
        vocabularies: Iterable[VocabularySource] | None,
    ) -> Iterable[tuple[Any, tuple[Vocabulary, Any]]]:
        """Each image with its prepared vocabulary."""
        if vocabularies is None:
            shared = self._prepared if vocabulary is None else self._prepare(vocabulary)
            if shared is None:
                raise UserError("there is no vocabulary yet: call set_vocabulary(names) first")
            return ((image, shared) for image in images)
        if vocabulary is not None:
            raise UserError("give one `vocabulary` for all images or `vocabularies`, not both")
        if isinstance(vocabularies, str | os.PathLike | Vocabulary | CaptionPhrases):
            raise UserError("`vocabularies` is a list with one for each image")
        if isinstance(images, Sized) and isinstance(vocabularies, Sized):
            _check_counts(len(images) == len(vocabularies))
        return _zip_equal(images, self._prepare_distinct(vocabularies))

    def _prepare_distinct(
        self, sources: Iterable[VocabularySource]
    ) -> Iterator[tuple[Vocabulary, Any]]:
        """The prepared vocabularies, in order; equal ones are encoded once."""
        # The source is kept beside the result, so that no other object can get its id.
        known: dict[Any, tuple[VocabularySource, tuple[Vocabulary, Any]]] = {}
        for source in sources:
            if not isinstance(source, Vocabulary | CaptionPhrases | str | os.PathLike):
                source = tuple(check_names(source))
            # Vocabularies with equal names may have different embeddings.
            key = id(source) if isinstance(source, Vocabulary) else source
            if key not in known:
                if len(known) == _VOCABULARIES_KEPT:
                    del known[next(iter(known))]
                known[key] = source, self._prepare(source)
            yield known[key][1]

    def _stream(
        self,
        thresholds: DetectionThresholds,
        pairs: Iterable[tuple[ImageSource, tuple[Vocabulary, Any]]],
    ) -> Iterator[Instances]:
        """Results in order, holding `batch_size` images at a time."""
        remaining = iter(pairs)
        while chunk := list(itertools.islice(remaining, self.settings.batch_size)):
            samples = [self._sample(image, state) for image, (_, state) in chunk]
            vocabularies = [vocabulary for _, (vocabulary, _) in chunk]
            with torch.no_grad():
                outputs = self.model.inference(samples, thresholds=thresholds)
            del chunk, samples  # only results are held while the caller works
            for output, vocabulary in zip(outputs, vocabularies, strict=True):
                instances = vocabulary.above_thresholds(output.to("cpu"))
                labels = (vocabulary.labels[i] for i in instances.pred_classes.tolist())
                instances.labels = Labels(labels)
                yield instances

    def _sample(self, source: ImageSource, vocabulary: Any) -> dict[str, Any]:
        """A sample with one image, resized, and a prepared vocabulary."""
        image = read_image(source)
        return {
            "image": self.resized(image),
            "height": image.shape[0],
            "width": image.shape[1],
            "vocabulary": vocabulary,
        }

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) image -> (3, h, w), the size in which the model sees it."""
        height, width = image.shape[:2]
        new_size = ResizeShortestEdge.get_output_shape(
            height, width, self.settings.min_size, self.settings.max_size
        )
        # The short side of a strip of 1 x 10,000 pixels would round to 0.
        height, width = (max(1, length) for length in new_size)
        resized = Resize((height, width)).get_transform(image).apply_image(image)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


def _is_model(
    config: str | os.PathLike[str] | Mapping[str, Any],
) -> TypeGuard[str | os.PathLike[str]]:
    """Whether it means a model folder, or the name of a shipped model, and not a config."""
    if isinstance(config, Mapping):
        return False
    return config in SHIPPED or os.path.isdir(config) or not Path(config).suffix


def _to_vocabulary(source: VocabularySource) -> Vocabulary:
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and source.strip().casefold() in BUILTIN_NAMES:
        name = source.strip().casefold()
        raise UserError(
            f"{source!r} is the name of a built-in list: give Vocabulary.builtin({name!r}) for its "
            f"names, or [{source!r}] to look for a thing that is called so"
        )
    if isinstance(source, str) and Path(source).suffix not in (*_FILES_OF_NAMES, ".safetensors"):
        return Vocabulary.from_text(source)
    if isinstance(source, str | os.PathLike):
        is_saved = Path(source).suffix == ".safetensors"
        return Vocabulary.load(source) if is_saved else Vocabulary.from_file(source)
    return Vocabulary.from_names(source)


def _thresholds(
    thresholds: DetectionThresholds | None, overrides: Mapping[str, Any]
) -> DetectionThresholds:
    return DetectionThresholds(**overrides).or_else(thresholds or DetectionThresholds())


def _zip_equal(
    images: Iterable[Any], vocabularies: Iterable[tuple[Vocabulary, Any]]
) -> Iterator[tuple[Any, tuple[Vocabulary, Any]]]:
    nothing = object()
    for image, vocabulary in itertools.zip_longest(images, vocabularies, fillvalue=nothing):
        _check_counts(image is not nothing and vocabulary is not nothing)
        yield image, vocabulary  # type: ignore[misc]


def _check_counts(equal: bool) -> None:
    if not equal:
        raise UserError("there must be as many vocabularies as images")
