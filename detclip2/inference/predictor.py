"""The predictor: images and a vocabulary in, Instances with labels out."""

import itertools
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from detclip2.config import InferenceSettings, build_model, inference_settings, load_model_config
from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.io.resize import resize
from detclip2.data.io.video import Video, is_video
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.inference.prepared import PreparedVocabulary, ReadyImage
from detclip2.inference.reported import model_threshold, reported
from detclip2.inference.results import Labels
from detclip2.inference.tuned_file import Tuned
from detclip2.inference.vocabulary import Vocabulary
from detclip2.inference.vocabulary_source import VocabularySource, to_vocabulary, with_vocabularies
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError
from detclip2.utils.hub import model_folder
from detclip2.utils.model_folder import (
    default_model,
    folder_of,
    is_model,
    knowledge,
    read_model_folder,
)
from detclip2.utils.weights import load_weights

ONE_IMAGE = (ReadyImage, str, os.PathLike, bytes, bytearray, np.ndarray, Image.Image, torch.Tensor)


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
    this constructor, else from ``inference`` in the config, else from the model. Of a vocabulary
    with a calibration the ``scores`` are calibrated; then its thresholds take the place of
    ``score_threshold`` of config and model, and that of a call or the constructor is one of
    calibrated scores, beside them.

    Args:
        config: a LazyConfig with nodes ``model`` and ``inference``: its file (.py, or .yaml as
            ``LazyConfig.save`` writes it), or a loaded one. Without weights also a model folder,
            or the name of a model that ships, as `read_model_folder` takes them. None: config and
            weights of `default_model`.
        weights: a .safetensors file, or a torch file that needs no pickle; None keeps the model
            as its config builds it.
        tuned: the file of a tuning that started from this model, see docs/finetune.md.
        device: "cpu", "cuda", ...; None: the GPU, if there is one.
        thresholds: the four settings; None: all fall back to the next level.
        batch_size: how many images are read and processed at once; None: that of the config.
        masks: whether detections have ``pred_masks``; None: if the model has a mask head. False
            saves its time.
        trust_config: let a .yaml config build anything that it names, see docs/trust.md.
        **overrides: some of the four settings by name; they override ``thresholds``.

    Raises:
        UserError: a file or a key is wrong; the message names it.

    Warns:
        UserWarning: of the default model, what it has learnt, if its config says so (``knows``).
    """

    folder: Path | None = None
    """The model folder that it was made from."""

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        *,
        tuned: str | os.PathLike[str] | None = None,
        thresholds: DetectionThresholds | None = None,
        batch_size: int | None = None,
        masks: bool | None = None,
        trust_config: bool = False,
        **overrides: Any,
    ) -> None:
        if config is None:
            if weights is not None:
                raise UserError("weights without a config: give the config they were trained with")
            config, weights = default_model()
            if known := knowledge(config):
                warnings.warn(known, UserWarning, stacklevel=2)
        elif weights is None and is_model(config):
            config, weights = read_model_folder(config)
        own = _thresholds(thresholds, overrides)
        cfg, name = load_model_config(config, trust_config)
        settings = inference_settings(cfg, name)
        if batch_size is not None:
            if batch_size < 1:
                raise UserError(f"batch_size is {batch_size}; expected at least 1")
            settings = replace(settings, batch_size=batch_size)
        model: Any = build_model(cfg, name)
        if weights is not None:
            load_weights(model, os.fspath(weights), model.ignored_weights)
        if masks and not model.predicts_masks:
            raise UserError(
                "masks are asked for, but this model has no mask head; docs/masks.md shows how to "
                "train one"
            )
        if masks is not None:
            model.predicts_masks = masks
        if tuned is not None:
            Tuned.read(Path(tuned)).put_into(model, Path(tuned))
        self._set_up(model.to(checked_device(device)), settings, own)
        if not isinstance(config, Mapping) and weights is not None:
            self.folder = folder_of(config, weights)

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike[str], revision: str | None = None, **options: Any
    ) -> "OpenVocabularyPredictor":
        """A predictor for a model folder, here or on the Hugging Face Hub.

        A repository in the hub's cache is used without a look at the network.

        Args:
            model: a folder, the name of a model that ships, or the id of a repository, OWNER/NAME.
            revision: of the repository: a branch, a tag, or a commit, which never changes.
            **options: of the constructor.

        Raises:
            UserError: there is no such model, the hub cannot be reached, or as the constructor.
        """
        return cls(model_folder(model, revision), **options)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the model folder, with the vocabulary that is set, to the Hugging Face Hub.

        The rest is as in `detclip2.inference.publish.push_to_hub`, which has the ``options``.

        Raises:
            UserError: the predictor was not made from a model folder; and as there.
        """
        from detclip2.inference.publish import push_to_hub

        if self.folder is None:
            raise UserError("the predictor was not made from a model folder, which can be uploaded")
        return push_to_hub(self.folder, repository, vocabulary=self.vocabulary, **options)

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

    def _set_up(
        self,
        model: nn.Module,
        settings: InferenceSettings,
        own: DetectionThresholds = DetectionThresholds(),  # noqa: B008  frozen
    ) -> None:
        self.model: Any = model.eval()
        self.settings = replace(settings, thresholds=own.or_else(settings.thresholds))
        self.asked = own
        """The settings that the constructor was given, not those of the config."""
        self._prepared: PreparedVocabulary | None = None
        # Fast tokenizers of transformers cannot be called by two threads at once.
        self._text_lock = threading.Lock()

    def set_vocabulary(self, vocabulary: VocabularySource) -> None:
        """Set the vocabulary of later calls; names are encoded here, once.

        Args:
            vocabulary: a list of names, each of which may be a list of synonyms; names in one
                string, separated by commas; a path to a file of names (.txt, .csv, or a COCO .json)
                or to a saved vocabulary (.safetensors); a `Vocabulary`; `CaptionPhrases`; or what
                `prepare` returned.

        Raises:
            UserError: a name is invalid; a string is the name of a built-in list ("coco"), which
                may mean the list (`Vocabulary.builtin`) or a thing (``["coco"]``); or the
                vocabulary does not fit the model.
        """
        self._prepared = self.prepare(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary to detect; None before `set_vocabulary`."""
        return None if self._prepared is None else self._prepared.vocabulary

    @property
    def thresholds(self) -> DetectionThresholds:
        """The predictor's own settings; those that are None fall back to the model's."""
        return self.settings.thresholds

    def prepare(self, vocabulary: VocabularySource) -> PreparedVocabulary:
        """Encode a vocabulary once, for calls that name it: ``vocabulary=`` or ``vocabularies=``.

        Args:
            vocabulary: see `set_vocabulary`.

        Raises:
            UserError: as `set_vocabulary`.
        """
        if isinstance(vocabulary, PreparedVocabulary):
            return vocabulary
        encoded = self.encode(vocabulary)
        is_read_whole = isinstance(vocabulary, CaptionPhrases) and self.model.reads_names
        with self._text_lock:
            state = self.model.prepare_vocabulary(vocabulary if is_read_whole else encoded)
        return PreparedVocabulary(encoded, state)

    def encode(self, vocabulary: VocabularySource) -> Vocabulary:
        """Encode a vocabulary with this model, e.g. to save it.

        Raises:
            UserError: as `set_vocabulary`.
        """
        return to_vocabulary(vocabulary).encode_with(self.model, self._encode_phrases)

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
            labels of the vocabulary, and ``labels``, the caller's strings; with masks also
            ``pred_masks`` (N, H, W) bool. A list of these for a
            list or tuple; a generator, which holds ``batch_size`` images at a time, for any other
            iterable or a video.

        Raises:
            UserError: no vocabulary is set; an image cannot be read; a setting is out of range;
                there are not as many vocabularies as images.
        """
        asked = _thresholds(thresholds, overrides).or_else(self.asked)
        if caption is not None:
            if vocabulary is not None or vocabularies is not None:
                raise UserError("give a caption or a vocabulary, not both")
            vocabulary = CaptionPhrases.find(caption)
        if is_video(images):
            images = Video(images)
        one = isinstance(images, ONE_IMAGE)
        if not one and not isinstance(images, Iterable):
            read_image(images)  # raises, and lists the accepted types
        sources: Iterable[Any] = [images] if one else images
        results = self._stream(asked, self._with_vocabularies(sources, vocabulary, vocabularies))
        if one:
            return next(results)
        return list(results) if isinstance(images, list | tuple) else results

    def _with_vocabularies(
        self,
        images: Iterable[Any],
        vocabulary: VocabularySource | None,
        vocabularies: Iterable[VocabularySource] | None,
    ) -> Iterable[tuple[Any, PreparedVocabulary]]:
        """Each image with its prepared vocabulary."""
        if vocabularies is None:
            shared = self._prepared if vocabulary is None else self.prepare(vocabulary)
            if shared is None:
                raise UserError("there is no vocabulary yet: call set_vocabulary(names) first")
            return ((image, shared) for image in images)
        if vocabulary is not None:
            raise UserError("give one `vocabulary` for all images or `vocabularies`, not both")
        return with_vocabularies(images, vocabularies, self.prepare)

    def _stream(
        self,
        asked: DetectionThresholds,
        pairs: "Iterable[tuple[ImageSource | ReadyImage, PreparedVocabulary]]",
    ) -> Iterator[Instances]:
        """Results in order, holding `batch_size` images at a time."""
        remaining = iter(pairs)
        while chunk := list(itertools.islice(remaining, self.settings.batch_size)):
            images = [self.ready(image) for image, _ in chunk]
            results = self.detect(images, [prepared for _, prepared in chunk], asked)
            del chunk, images  # only results are held while the caller works
            yield from results

    def detect(
        self,
        images: Sequence[ReadyImage],
        vocabularies: Sequence[PreparedVocabulary],
        asked: DetectionThresholds,
    ) -> list[Instances]:
        """Detect in images that were read before: the second half of a call, without its checks.

        Args:
            images: from `ready`; one batch.
            vocabularies: from `prepare`, that of each image.
            asked: the four settings; what is None falls back to the predictor's.
        """
        results: list[Instances] = []
        # Calibrated vocabularies have thresholds of the model of their own.
        for least, part in itertools.groupby(
            zip(images, vocabularies, strict=True),
            lambda pair: model_threshold(pair[1].vocabulary, asked.score_threshold),
        ):
            results += self._detect(list(part), asked, least)
        return results

    def _detect(
        self,
        pairs: Sequence[tuple[ReadyImage, PreparedVocabulary]],
        asked: DetectionThresholds,
        least: float | None,
    ) -> Iterator[Instances]:
        """Results of images whose vocabularies have one `model_threshold`, ``least``."""
        settings = asked.or_else(self.thresholds)
        if least is not None:
            settings = replace(settings, score_threshold=least)
        samples = [{**vars(image), "vocabulary": prepared.state} for image, prepared in pairs]
        with torch.no_grad():
            outputs = self.model.inference(samples, thresholds=settings)
        for output, (_, (vocabulary, _)) in zip(outputs, pairs, strict=True):
            instances = reported(output.to("cpu"), vocabulary, asked.score_threshold)
            instances.labels = Labels(vocabulary.labels[i] for i in instances.pred_classes.tolist())
            yield instances

    def ready(self, source: "ImageSource | ReadyImage") -> ReadyImage:
        """Read and resize an image: the first half of a call.

        Raises:
            UserError: the image cannot be read.
        """
        if isinstance(source, ReadyImage):
            return source
        image = read_image(source)
        return ReadyImage(self.resized(image), *image.shape[:2])

    @property
    def effective_thresholds(self) -> DetectionThresholds:
        """The four settings of a call that sets none: the predictor's own, else the model's."""
        return self.thresholds.or_else(self.model.postprocess.thresholds)

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) image -> (3, h, w), the size in which the model sees it."""
        height, width = image.shape[:2]
        shortest, longest = self.settings.min_size, self.settings.max_size
        new_size = ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        # The short side of a strip of 1 x 10,000 pixels would round to 0.
        height, width = (max(1, length) for length in new_size)
        resized = resize(image, (height, width))
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


def _thresholds(
    thresholds: DetectionThresholds | None, overrides: Mapping[str, Any]
) -> DetectionThresholds:
    return DetectionThresholds(**overrides).or_else(thresholds or DetectionThresholds())
