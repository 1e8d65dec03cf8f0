"""The mapper of phrase grounding in evaluation: the phrases of a caption and their boxes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T

from detclip2.data.io.resize import ImageInput
from detclip2.data.mappers.records import (
    Record,
    box_of,
    given_phrases,
    name_of,
    read_record_image,
    record_size_problem,
)
from detclip2.data.sample import SkipSample
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.spans import find_phrase
from detclip2.utils.errors import UserError


class Mention(NamedTuple):
    """A phrase of a caption with all its boxes."""

    phrase: str
    """Clean, see `clean_phrase`; not empty."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """At least one, XYXY in pixels of the original image."""
    types: tuple[str, ...] = ()
    """The data set's types of the phrase: people, clothing, ..."""


def mentions_of(record: Record) -> list[Mention]:
    """The mentions of a grounding record, in the order of the caption.

    They are the record's ``mentions`` if its reader gives them. Otherwise each distinct phrase of
    its annotations is one mention, with the boxes of all annotations that have it: if "a man" means
    two people of a caption, both are one mention.

    Raises:
        UserError: a box is not 4 finite numbers, or a phrase is no text.
    """
    if "mentions" in record:
        return list(record["mentions"])
    boxes_of: dict[str, list[tuple[float, float, float, float]]] = {}
    for annotation in record.get("annotations", ()):
        try:
            box = box_of(annotation)
        except ValueError as error:
            raise UserError(f"{name_of(record)}: {error}") from error
        if not all(map(math.isfinite, box)):
            raise UserError(f"{name_of(record)}: box {list(box)} is not finite")
        try:
            phrases = given_phrases(annotation, record) or []
        except SkipSample as error:
            raise UserError(error.message) from error
        for phrase in filter(None, map(clean_phrase, phrases)):
            boxes_of.setdefault(phrase, []).append(box)
    return [Mention(phrase, tuple(boxes)) for phrase, boxes in boxes_of.items()]


class MentionMapper:
    """Makes inputs of a model in evaluation mode: the image, and its phrases as vocabulary.

    Args:
        augmentations: Detectron2 augmentations that resize.
        whole_captions: whether the vocabulary is `CaptionPhrases` with the record's ``caption``,
            which GLIP reads whole.
    """

    def __init__(
        self, augmentations: Sequence[T.Augmentation], whole_captions: bool = False
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.whole_captions = whole_captions

    def __call__(self, record: Record) -> dict[str, Any]:
        """The input of a grounding record.

        Its ``vocabulary`` has each phrase once; with whole captions, each mention.

        Raises:
            UserError: the image cannot be read, or has another size than the record says; with
                whole captions: there is none, or it does not have a phrase.
        """
        try:
            image = read_record_image(record)
        except SkipSample as error:
            raise UserError(error.message) from error
        height, width = image.shape[:2]
        if problem := record_size_problem(record, image):
            raise UserError(f"{name_of(record)} {problem}")
        augmented = ImageInput(image)
        self.augmentations(augmented)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
            "height": height,
            "width": width,
            "image_id": record["image_id"],
            "sentence_id": record.get("sentence_id", 0),
            "file_name": str(record.get("file_name", "")),
            "vocabulary": (
                caption_phrases_of(record)
                if self.whole_captions
                else vocabulary_of(mentions_of(record))
            ),
        }


def caption_phrases_of(record: Record) -> CaptionPhrases:
    """The caption of a record with each of its mentions as a phrase.

    The places are the record's ``mention_spans``, else wherever the caption has the phrase.

    Raises:
        UserError: there is no caption, or it does not have a phrase.
    """
    caption = record.get("caption", "")
    phrases = [mention.phrase for mention in mentions_of(record)]
    spans = record.get("mention_spans") or [find_phrase(caption, phrase) for phrase in phrases]
    for phrase, places in zip(phrases, spans, strict=True):
        if not places:
            raise UserError(
                f"{name_of(record)}: the caption {caption[:80]!r} does not have the phrase "
                f"{phrase[:80]!r}"
            )
    return CaptionPhrases(caption, tuple(phrases), tuple(map(tuple, spans)))


def vocabulary_of(mentions: Sequence[Mention]) -> list[str]:
    """The distinct phrases of a caption's mentions."""
    return unique_phrases([mention.phrase for mention in mentions])
