"""The mappers of questions and of captions to write."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample
from detclip2.data.mappers.records import Record, decode_caption, name_of
from detclip2.data.sample import SkipSample, text_problem
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import clean_phrase, has_words


class QuestionMapper(Mapper):
    """Makes samples of questions: the image, the question, and the scores of its answers.

    Args:
        augmentations: Detectron2 augmentations. A flip makes "left" wrong.
        known_answers: those that the model chooses from; a question none of whose answers is
            there is skipped and counted. None: no question is skipped for its answers.
        blind: show a black image instead: the baseline without images.
        counter: see `Mapper`.
    """

    supervision = "vqa"
    keepable = ("question", "answers")

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        known_answers: Sequence[str] | None = None,
        blind: bool = False,
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, 1, counter, keep=self.keepable)
        self.known_answers = None if known_answers is None else frozenset(known_answers)
        self.blind = blind

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See `Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        question = question_of(record)
        if problem := text_problem("answers", record.get("answers")):
            raise SkipSample("record-malformed", f"{name_of(record)}: {problem}")
        if self.known_answers is not None and self.known_answers.isdisjoint(record["answers"]):
            answers = ", ".join(record["answers"])
            raise SkipSample("answer-unknown", f"{name_of(record)}: {question[:80]!r}: {answers}")
        sample = self._pack(record, self._view(record, rng), [], 0)
        sample["question"] = question
        if self.blind:
            sample["image"] = torch.zeros_like(sample["image"])
        return sample


def question_of(record: Record) -> str:
    """The question of a record, as one line of at most 1,000 characters.

    Raises:
        SkipSample: it is no text, or has no words.
    """
    if problem := text_problem("question", record.get("question")):
        raise SkipSample("record-malformed", f"{name_of(record)}: {problem}")
    question = clean_phrase(record["question"])
    if not has_words(question):
        raise SkipSample("question-without-words", f"{name_of(record)}: {question[:80]!r}")
    return question


class CaptioningMapper(Mapper):
    """Makes samples of captions to write, of records with ``caption`` or ``captions``.

    Args:
        augmentations: Detectron2 augmentations. A flip makes "left" wrong.
        counter: see `Mapper`.
    """

    supervision = "captioning"

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, 1, counter)

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See `Mapper.__call__`; one of several captions is drawn."""
        rng = np.random.default_rng() if rng is None else rng
        captions: Any = record.get("captions") or [record.get("caption", "")]
        chosen = captions[int(rng.integers(len(captions)))]
        text = clean_phrase(decode_caption(chosen, record))
        if not has_words(text):
            raise SkipSample("caption-empty", f"{name_of(record)}: {text[:80]!r}")
        sample = self._pack(record, self._view(record, rng), [], 0)
        sample["target_text"] = text
        return sample
