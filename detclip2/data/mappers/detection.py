"""The mapper of detection records."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from detclip2.data.mappers.base import Mapper, Sample, draw
from detclip2.data.mappers.records import Record, name_of
from detclip2.data.sample import TEXT_KEYS
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import clean_phrase, unique_phrases
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.data.text.prompts import Definitions, check_templates, definition_of, prompts_of
from detclip2.utils.errors import UserError, shown


class DetectionMapper(Mapper):
    """Makes samples of detection records: the categories in the image, and random negatives.

    A category that has instances without a valid box (crowd regions, invalid boxes, LVIS's
    ``not_exhaustive_category_ids``) is a positive that is listed in ``not_exhaustive``. If the
    record has ``neg_category_ids`` (LVIS's federated annotation), only those are negatives and
    ``own_phrases_only`` is set: an unknown category is not a negative.

    Args:
        names: the category names by contiguous ``category_id``. Names that are equal but for case
            are one phrase; boxes of a category without a name are skipped and counted.
        augmentations: Detectron2 augmentations.
        max_phrases: positives and negatives together, 150 in the paper.
        negatives: dictionary to draw negatives from; the data set's own names by default.
        templates: templates for the names, as in the vocabulary of the evaluation; each sample
            takes one at random.
        definitions: definitions that follow the names (concept enrichment, paper, sec. 3.1): a
            mapping or a ConceptDictionary; None for names alone.
        varied_negatives: as in GLIP, at most this many negatives, 85 there: all of them in half of
            the samples, and a uniform number from 1 to it in the others. None: as many as
            ``max_phrases`` allows.
        counter: see `Mapper`.
        keep: see `Mapper`. Only records that are read with ``masks=True`` have masks. With
            "phrase_order" names stay in the order of ``names``, in which an evaluation asks for
            them; it needs negatives from ``names``.

    Raises:
        UserError: see `Mapper`; "phrase_order" is to be kept of negatives from a dictionary.
    """

    supervision = "detection"
    keepable = ("gt_masks", "phrase_order", *TEXT_KEYS)

    def __init__(
        self,
        names: Sequence[str],
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 150,
        negatives: ConceptDictionary | None = None,
        templates: Sequence[str] = ("{}",),
        definitions: Definitions | None = None,
        varied_negatives: int | None = None,
        counter: SkipCounter | None = None,
        keep: Sequence[str] = (),
    ):
        super().__init__(augmentations, max_phrases, counter, keep)
        if "phrase_order" in self.keep and negatives is not None:
            raise UserError(
                "keep has 'phrase_order', but negatives from a dictionary have no order in names"
            )
        self.varied_negatives = varied_negatives
        self.negatives = negatives
        self.templates = check_templates(templates)
        self.definitions = definitions
        self.names: list[str] = []  # distinct names
        self.phrases: list[tuple[str, ...]] = []  # prompts of each name, one a template
        index_of: dict[str, int] = {}
        self._index_of_category: list[int | None] = []
        for name in map(clean_phrase, names):
            prompts = self._prompts(name)
            if name and prompts[0].casefold() not in index_of:
                index_of[prompts[0].casefold()] = len(self.phrases)
                self.names.append(name)
                self.phrases.append(prompts)
            self._index_of_category.append(index_of.get(prompts[0].casefold()) if name else None)
        self._rank = {p: i for i, prompts in enumerate(self.phrases) for p in prompts}

    def _prompts(self, name: str) -> tuple[str, ...]:
        """The prompts of a name, one a template, as in a Vocabulary."""
        definition = definition_of(name, self.definitions)
        return tuple(map(clean_phrase, prompts_of(name, self.templates, definition)))

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See `Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        view = self._view(record, rng)
        boxed, unboxed = self._boxes(record, view)
        labelled = [(self._labels(record, annotation), moved) for annotation, moved in boxed]
        incomplete = {i for annotation in unboxed for i in self._labels(record, annotation)}
        for category_id in record.get("not_exhaustive_category_ids", ()):
            incomplete.update(self._labels(record, {"category_id": category_id}))
        template = int(rng.integers(len(self.templates))) if len(self.templates) > 1 else 0
        positives, instances = self._label(record, view, labelled, sorted(incomplete), rng)
        present = {index for labels, _ in labelled for index in labels} | incomplete
        phrases = [self.phrases[index][template] for index in positives]
        number = self._number_of_negatives(self.max_phrases - len(phrases), rng)
        phrases += self._draw_negatives(record, present, number, template, rng)
        sample = self._pack(
            record,
            view,
            phrases,
            len(positives),
            own_phrases_only="neg_category_ids" in record,
            not_exhaustive=[i for i, index in enumerate(positives) if index in incomplete],
        )
        if "phrase_order" in self.keep:
            order = sorted(range(len(phrases)), key=lambda i: self._rank[phrases[i]])
            sample["phrase_order"] = torch.tensor(order, dtype=torch.int64)
        return {**sample, "instances": instances}

    def _number_of_negatives(self, room: int, rng: np.random.Generator) -> int:
        """How many negatives a sample has, if ``max_phrases`` has room for so many."""
        if self.varied_negatives is None:
            return room
        number = self.varied_negatives
        if rng.random() < 0.5:
            number = int(rng.integers(1, number + 1))
        return min(number, room)

    def _labels(self, record: Record, annotation: Any) -> list[int]:
        """[index of the name] of an annotation's category; [] if it is unknown or unnamed."""
        category_id = annotation.get("category_id")
        known = isinstance(category_id, int | np.integer) and category_id >= 0
        if not known or category_id >= len(self._index_of_category):
            self.counter.add(
                "category-unknown", f"{name_of(record)}: category_id {shown(category_id)}"
            )
            return []
        index = self._index_of_category[category_id]
        if index is None:
            self.counter.add("category-unnamed", f"{name_of(record)}: category_id {category_id}")
            return []
        return [index]

    def _draw_negatives(
        self,
        record: Record,
        present: set[int],
        number: int,
        template: int,
        rng: np.random.Generator,
    ) -> list[str]:
        if self.negatives is not None and "neg_category_ids" not in record:
            names = self.negatives.sample_negatives(
                rng, number, exclude=[self.names[index] for index in sorted(present)]
            )
            taken = {self.phrases[index][template].casefold() for index in present}
            drawn = unique_phrases([self._prompts(name)[template] for name in names])
            return [phrase for phrase in drawn if phrase.casefold() not in taken]
        absent: set[int] = set(range(len(self.phrases)))
        if "neg_category_ids" in record:
            ids = record["neg_category_ids"]
            absent = {i for c in ids for i in self._labels(record, {"category_id": c})}
        pool = sorted(absent - present)
        return [self.phrases[pool[i]][template] for i in draw(rng, len(pool), number)]
