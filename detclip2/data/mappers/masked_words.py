"""The mapper of masked words in evaluation: an image, its caption, and words to predict."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.phrase_grounding import MentionMapper
from detclip2.data.mappers.records import Record
from detclip2.utils.errors import UserError

_WORD = re.compile(r"\w+")


class MaskedWordMapper:
    """Makes inputs of a model in evaluation mode from grounding records.

    Each word of a caption is masked with a probability, and at least one is. Which ones depends on
    the image's id and the number of the sentence alone, so that all models are asked for the same.

    Args:
        augmentations: Detectron2 augmentations that resize.
        probability: of a word to be masked; 0.15 in training, as in BERT.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation], probability: float = 0.15) -> None:
        self.mentions = MentionMapper(augmentations, whole_captions=True)
        self.probability = probability

    def __call__(self, record: Record) -> dict[str, Any]:
        """The input of a grounding record.

        It has ``caption``, ``masked_spans``, [begin, end) pairs of its characters, and
        ``masked_words``, for each of these the word, and whether it is of a phrase with a box.

        Raises:
            UserError: as `MentionMapper`; the caption has no word.
        """
        sample = self.mentions(record)
        asked = sample.pop("vocabulary")
        spans = [match.span() for match in _WORD.finditer(asked.caption)]
        if not spans:
            raise UserError(f"{sample['file_name']}: the caption {asked.caption!r} has no word")
        key = f"{sample['image_id']}/{sample['sentence_id']}"
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        drawn = rng.random(len(spans))
        masked = sorted({int(drawn.argmin()), *np.nonzero(drawn < self.probability)[0].tolist()})
        boxed = [span for of_phrase in asked.spans for span in of_phrase]
        return {
            **sample,
            "caption": asked.caption,
            "masked_spans": [spans[i] for i in masked],
            "masked_words": [
                (asked.caption[begin:end], any(b < end and begin < e for b, e in boxed))
                for begin, end in (spans[i] for i in masked)
            ],
        }
