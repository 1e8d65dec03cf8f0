"""Detection records become samples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample, draw
from detclip2.data.records import Record, name_of
from detclip2.data.sample import clean_phrase, unique_phrases
from detclip2.data.skips import SkipCounter
from detclip2.data.text.concepts import ConceptDictionary


class DetectionMapper(Mapper):
    """Detection records: the categories in the image and random negative categories.

    A category that is in the image without a usable box of its own (crowd regions, invalid boxes,
    LVIS's ``not_exhaustive_category_ids``) is a positive phrase that is listed in
    ``not_exhaustive``. Where the record has ``neg_category_ids`` (LVIS's federated annotation),
    only those are negatives and ``own_phrases_only`` is set: unknown is not negative.

    Args:
        names: the category names by contiguous ``category_id``. Equal names (also in other case)
            are one phrase; boxes of a category without a name are left out and counted.
        augmentations: Detectron2 augmentations.
        max_phrases: positives and negatives together, 150 in the paper.
        negatives: where negatives are drawn from; the data set's own names by default.
        prompts: name -> the phrase that the text tower reads, such as a ConceptDictionary, which
            adds the definition (concept enrichment); the name itself by default.
        counter: see :class:`Mapper`.
    """

    source = "detection"

    def __init__(
        self,
        names: Sequence[str],
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 150,
        negatives: ConceptDictionary | None = None,
        prompts: Callable[[str], str] | None = None,
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, max_phrases, counter)
        self.negatives = negatives
        self.prompts = prompts or str
        self.names: list[str] = []  # distinct names
        self.phrases: list[str] = []  # their prompts
        index_of: dict[str, int] = {}
        self._index_of_category: list[int | None] = []
        for name in map(clean_phrase, names):
            phrase = clean_phrase(self.prompts(name)) if name else ""
            if phrase and phrase.casefold() not in index_of:
                index_of[phrase.casefold()] = len(self.phrases)
                self.names.append(name)
                self.phrases.append(phrase)
            self._index_of_category.append(index_of.get(phrase.casefold()))

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See :meth:`Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        view = self._view(record, rng)
        boxed, unboxed = self._boxes(record, view)
        labelled = [(self._labels(record, annotation), moved) for annotation, moved in boxed]
        incomplete = {i for annotation in unboxed for i in self._labels(record, annotation)}
        for category_id in record.get("not_exhaustive_category_ids", ()):
            incomplete.update(self._labels(record, {"category_id": category_id}))
        positives, instances = self._label(record, view, labelled, sorted(incomplete), rng)
        present = {index for labels, _ in labelled for index in labels} | incomplete
        phrases = [self.phrases[index] for index in positives]
        phrases += self._draw_negatives(record, present, self.max_phrases - len(phrases), rng)
        sample = self._pack(
            record,
            view,
            phrases,
            len(positives),
            own_phrases_only="neg_category_ids" in record,
            not_exhaustive=[i for i, index in enumerate(positives) if index in incomplete],
        )
        return {**sample, "instances": instances}

    def _labels(self, record: Record, annotation: Any) -> list[int]:
        """The one phrase of an annotation's category, or none if the category is not known."""
        category_id = annotation.get("category_id")
        known = isinstance(category_id, int | np.integer) and category_id >= 0
        if not known or category_id >= len(self._index_of_category):
            self.counter.add("category-unknown", f"{name_of(record)}: category_id {category_id!r}")
            return []
        index = self._index_of_category[category_id]
        if index is None:
            self.counter.add("category-unnamed", f"{name_of(record)}: category_id {category_id}")
            return []
        return [index]

    def _draw_negatives(
        self, record: Record, present: set[int], number: int, rng: np.random.Generator
    ) -> list[str]:
        if self.negatives is not None and "neg_category_ids" not in record:
            names = self.negatives.sample_negatives(
                rng, number, exclude=[self.names[index] for index in sorted(present)]
            )
            taken = {self.phrases[index].casefold() for index in present}
            drawn = unique_phrases([self.prompts(name) for name in names])
            return [phrase for phrase in drawn if phrase.casefold() not in taken]
        absent: set[int] = set(range(len(self.phrases)))
        if "neg_category_ids" in record:
            ids = record["neg_category_ids"]
            absent = {i for c in ids for i in self._labels(record, {"category_id": c})}
        pool = sorted(absent - present)
        return [self.phrases[pool[i]] for i in draw(rng, len(pool), number)]
