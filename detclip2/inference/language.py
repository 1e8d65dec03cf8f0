"""Questions and captions: what a model says of an image, and the boxes of the phrases in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from detclip2.data.io.image import ImageSource, read_image
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.clean import MAX_PHRASE_LENGTH, clean_phrase, has_words
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.results import Labels
from detclip2.modeling.protocol import LanguageModel
from detclip2.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class GroundedText:
    """A text about an image, with the detections of its noun phrases."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    text: str
    instances: Instances
    """Of the image, best first: ``pred_boxes`` XYXY px, ``scores``, ``labels``, which are phrases
    of the text."""

    def phrases(self) -> list[dict[str, Any]]:
        """The detections as json can hold them: ``phrase``, ``score`` and ``box``, XYXY px."""
        rows = zip(
            self.instances.labels,
            self.instances.scores.tolist(),
            self.instances.pred_boxes.tensor.tolist(),
            strict=True,
        )
        return [{"phrase": label, "score": score, "box": box} for label, score, box in rows]


@dataclass(frozen=True, eq=False)
class GroundedAnswer(GroundedText):
    """The answers to a question, which is ``text``."""

    answers: Sequence[str]
    """Best first."""
    probabilities: Sequence[float]
    """Of each answer, 0 to 1; they need not add up to 1."""


@dataclass(frozen=True, eq=False)
class GroundedCaption(GroundedText):
    """A caption that the model wrote, which is ``text``."""

    log_probability: float
    is_complete: bool
    """False if the caption was cut at the most tokens that the model writes."""


def ask(predictor: OpenVocabularyPredictor, image: ImageSource, question: str) -> GroundedAnswer:
    """Answer a question about an image, and show the boxes that its phrases choose.

    Args:
        predictor: its model is a `LanguageModel`; its thresholds decide which boxes are shown.
        image: see `read_image`.
        question: about the image.

    Raises:
        UserError: the question has no words, or more tokens than the model reads; the image cannot
            be read; or the model answers no questions.
    """
    model = _language_model(predictor)
    asked = clean_phrase(question)
    if not has_words(asked):
        raise UserError('the question has no words: ask about the image, as in "is there a dog?"')
    pixels = read_image(image)
    sample = {**_sample(predictor, pixels), "question": asked, "supervision": "vqa"}
    [found] = model.answer([sample])
    if len(question) > MAX_PHRASE_LENGTH or not found["is_whole"]:
        raise UserError(
            f"the question {asked[:60]!r}... has {len(question)} characters, which is more than "
            f"this model reads (no model reads more than {MAX_PHRASE_LENGTH}): shorten it"
        )
    instances = ground(predictor, pixels, asked)
    return GroundedAnswer(pixels, asked, instances, found["answers"], found["probabilities"])


def describe(
    predictor: OpenVocabularyPredictor, image: ImageSource, beam_size: int | None = None
) -> GroundedCaption:
    """Write a caption of an image, and show the boxes of its phrases.

    Args:
        predictor: its model is a `LanguageModel`; its thresholds decide which boxes are shown.
        image: see `read_image`.
        beam_size: texts that the search keeps; 1 is greedy; None: the model's number.

    Raises:
        UserError: the image cannot be read, or the model writes no captions.
    """
    model = _language_model(predictor)
    pixels = read_image(image)
    [found] = model.caption([_sample(predictor, pixels)], beam_size)
    instances = ground(predictor, pixels, found["caption"])
    return GroundedCaption(
        *(pixels, found["caption"], instances, found["log_probability"], found["is_complete"])
    )


def ground(predictor: OpenVocabularyPredictor, image: np.ndarray, text: str) -> Instances:
    """The detections of the noun phrases of a text; none if it has no noun phrase.

    Args:
        predictor: detects.
        image: (H, W, 3) uint8 RGB.
        text: the model reads it whole, if it can.
    """
    try:
        phrases = CaptionPhrases.find(text)
    except UserError:  # "where?" asks for nothing that has a box
        return Instances(
            image.shape[:2],
            pred_boxes=Boxes(torch.zeros(0, 4)),
            scores=torch.zeros(0),
            pred_classes=torch.zeros(0, dtype=torch.int64),
            labels=Labels(),
        )
    return predictor(image, vocabulary=phrases)


def _language_model(predictor: OpenVocabularyPredictor) -> Any:
    if not isinstance(predictor.model, LanguageModel):
        raise UserError(
            "this model neither answers questions nor writes captions: take one that was trained "
            "to, see docs/questions_and_captions.md"
        )
    return predictor.model


def _sample(predictor: OpenVocabularyPredictor, image: np.ndarray) -> dict[str, Any]:
    return {"image": predictor.resized(image), "height": image.shape[0], "width": image.shape[1]}
