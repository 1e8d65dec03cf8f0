"""Grounding records become samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample
from detclip2.data.records import Record, decode_caption, name_of
from detclip2.data.sample import SkipSample, clean_phrase, unique_phrases
from detclip2.data.skips import SkipCounter
from detclip2.data.text.concepts import ConceptDictionary


class GroundingMapper(Mapper):
    """Grounding records: the caption's phrases that have boxes, and negatives from a dictionary.

    A box that belongs to several phrases is there once for each of them. A phrase whose only boxes
    are invalid or crowd regions is listed in ``not_exhaustive``.

    Args:
        augmentations: Detectron2 augmentations. A flip makes "left" wrong: leave it out, or
            accept it as the field does.
        max_phrases: positives and negatives together, 100 in the paper.
        negatives: a ConceptDictionary, or a list of phrases to make one of; none are added if None.
            They are disjoint from the positives and from all that the caption mentions.
        counter: see :class:`Mapper`.
    """

    source = "grounding"

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 100,
        negatives: ConceptDictionary | Sequence[str] | None = None,
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, max_phrases, counter)
        if negatives is not None and not isinstance(negatives, ConceptDictionary):
            negatives = ConceptDictionary.from_names(negatives)
        self.negatives = negatives

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See :meth:`Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        if not any(annotation.get("phrases") for annotation in record.get("annotations", ())):
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: no phrase has a box")
        view = self._view(record, rng)
        boxed, unboxed = self._boxes(record, view)
        spelling: dict[str, str] = {}  # "A Dog" and "a dog" are one phrase, as first written
        labelled = [(_phrases_of(annotation, spelling), moved) for annotation, moved in boxed]
        incomplete = {p for annotation in unboxed for p in _phrases_of(annotation, spelling)}
        positives, instances = self._label(record, view, labelled, sorted(incomplete), rng)
        if not positives:
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: no phrase has a box")
        negatives: list[str] = []
        if self.negatives is not None:
            for annotation in record["annotations"]:
                _phrases_of(annotation, spelling)
            caption = clean_phrase(decode_caption(record.get("caption", ""), record))
            negatives = self.negatives.sample_negatives(
                rng, self.max_phrases - len(positives), exclude=[*spelling.values(), caption]
            )
        not_exhaustive = [i for i, phrase in enumerate(positives) if phrase in incomplete]
        sample = self._pack(
            record, view, positives + negatives, len(positives), not_exhaustive=not_exhaustive
        )
        return {**sample, "instances": instances}


def _phrases_of(annotation: Any, spelling: dict[str, str]) -> list[str]:
    phrases = unique_phrases(list(annotation.get("phrases") or ()))
    return [spelling.setdefault(phrase.casefold(), phrase) for phrase in phrases]
