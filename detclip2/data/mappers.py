"""Dataset records become samples: one mapper for each kind of supervision (paper, sec. 3.1).

A mapper is called with a record and a random generator, and returns the sample of
:mod:`detclip2.data.phrases` or raises :class:`~detclip2.data.phrases.SkipSample`. A sample is a
function of the record and the generator's state alone, and the record is never changed. Boxes that
are of no use are left out and counted in ``mapper.counter``.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances

from detclip2.data.concepts import ConceptDictionary
from detclip2.data.phrases import SkipSample, clean_phrase, unique_phrases
from detclip2.data.records import (
    Record,
    box_of,
    box_problem,
    decode_caption,
    name_of,
    read_record_image,
)
from detclip2.data.skips import SkipCounter
from detclip2.errors import UserError

MAX_ASPECT_RATIO = 100

Sample = dict[str, Any]


class _View(NamedTuple):
    """An image after augmentation, and how its boxes get there."""

    image: np.ndarray  # (H, W, 3)
    original_size: tuple[int, int]  # height, width
    transforms: T.TransformList


class Mapper(ABC):
    """What the three mappers share: reading, augmenting and packing.

    Args:
        augmentations: Detectron2 augmentations, applied in order.
        max_phrases: the most phrases of a sample.
        counter: what to count the things left out in; a new one by default.
    """

    source: ClassVar[str]

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        max_phrases: int,
        counter: SkipCounter | None,
    ):
        if max_phrases < 1:
            raise UserError(f"max_phrases is {max_phrases}; a sample needs at least one phrase")
        self.augmentations = T.AugmentationList(list(augmentations))
        self.max_phrases = max_phrases
        self.counter = SkipCounter(self.source) if counter is None else counter

    @abstractmethod
    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """Make a sample of a record.

        Args:
            record: a dataset record; never changed.
            rng: the source of everything random; a fresh one, seeded by the system, if None.

        Raises:
            SkipSample: if no sample can be made of the record.
        """

    def _view(self, record: Record, rng: np.random.Generator) -> _View:
        image = read_record_image(record)
        size = image.shape[0], image.shape[1]
        stated = record.get("height", size[0]), record.get("width", size[1])
        if stated != size:
            raise SkipSample("image-mismatched", f"{name_of(record)}: {size}, not {stated}")
        if max(size) > MAX_ASPECT_RATIO * min(size):
            raise SkipSample("image-extreme", f"{name_of(record)}: {size}")
        with numpy_seed(int(rng.integers(2**32))):
            augmented = T.AugInput(image)
            transforms = self.augmentations(augmented)
        return _View(augmented.image, size, transforms)

    def _pack(
        self,
        record: Record,
        view: _View,
        phrases: list[str],
        num_positives: int,
        own_phrases_only: bool = False,
        not_exhaustive: Sequence[int] = (),
    ) -> Sample:
        return {
            "image": torch.from_numpy(np.ascontiguousarray(view.image.transpose(2, 0, 1))),
            "height": view.original_size[0],
            "width": view.original_size[1],
            "image_id": record.get("image_id", ""),
            "file_name": str(record.get("file_name", "")),
            "source": self.source,
            "phrases": phrases,
            "num_positives": num_positives,
            "own_phrases_only": own_phrases_only,
            "not_exhaustive": torch.tensor(list(not_exhaustive), dtype=torch.int64),
        }

    def _boxes(self, record: Record, view: _View) -> tuple[list[tuple[Any, dict]], list[Any]]:
        """The annotations with a box in the view, each with it, and those without a usable box.

        An annotation that only the augmentation moved out of the view is in neither list.
        """
        boxed, unboxed = [], []
        for annotation in record.get("annotations", ()):
            try:
                box = box_of(annotation)
                problem = box_problem(box, view.original_size)
            except ValueError as error:
                problem = str(error)
            if problem:
                self.counter.add("box-invalid", f"{name_of(record)}: {problem}")
            if problem or annotation.get("iscrowd"):
                unboxed.append(annotation)
                continue
            moved = detection_utils.transform_instance_annotations(
                {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS},
                view.transforms,
                view.image.shape[:2],
            )
            x1, y1, x2, y2 = np.asarray(moved["bbox"], dtype=np.float32)
            if x2 > x1 and y2 > y1:
                boxed.append((annotation, moved))
        return boxed, unboxed

    def _label(
        self,
        record: Record,
        view: _View,
        labelled: list[tuple[list, dict]],
        without_box: list,
        rng: np.random.Generator,
    ) -> tuple[list, Instances]:
        """The positives of a sample and its instances, whose classes are indices into them.

        `labelled` has the labels (of any one hashable type) of each box in the view, and
        `without_box` those that are positive without a box.
        """
        labels = [label for labels, _ in labelled for label in labels] + without_box
        positives = list(dict.fromkeys(labels))
        surplus = len(positives) - self.max_phrases
        if surplus > 0:
            self.counter.add("phrase-over-limit", name_of(record), surplus)
            positives = [positives[i] for i in draw(rng, len(positives), self.max_phrases)]
        index = {label: i for i, label in enumerate(positives)}
        annotations = [
            {**moved, "category_id": index[label]}
            for labels, moved in labelled
            for label in labels
            if label in index
        ]
        size = view.image.shape[:2]
        return positives, detection_utils.annotations_to_instances(annotations, size)


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
        self.prompts = prompts or (lambda name: name)
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


class CaptionMapper(Mapper):
    """Image-text pairs: the whole caption and its noun phrases, and no boxes.

    Args:
        augmentations: Detectron2 augmentations; the paper trains pairs at 320 x 320 (Resize).
        max_phrases: the first so many phrases are kept (the paper leaves it open).
        noun_phrases: caption -> its noun phrases, for records that do not bring ``phrases``;
            ``detclip2.data.noun_phrases.extract_noun_phrases`` by default.
        include_caption: whether the whole caption is a phrase too (sec. 3.1 says so, sec. 3.2 is
            silent; hence a switch).
        counter: see :class:`Mapper`.
    """

    source = "caption"

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation] = (),
        max_phrases: int = 32,
        noun_phrases: Callable[[str], list[str]] | None = None,
        include_caption: bool = True,
        counter: SkipCounter | None = None,
    ):
        super().__init__(augmentations, max_phrases, counter)
        self.noun_phrases = noun_phrases or extract_noun_phrases
        self.include_caption = include_caption

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """See :meth:`Mapper.__call__`."""
        rng = np.random.default_rng() if rng is None else rng
        # Text first: it is cheap, and spares the reading of an image without a usable caption.
        phrases = self._phrases(record, rng)
        view = self._view(record, rng)
        return self._pack(record, view, phrases, len(phrases))

    def _phrases(self, record: Record, rng: np.random.Generator) -> list[str]:
        captions = record.get("captions") or [record.get("caption", "")]
        chosen = captions[int(rng.integers(len(captions)))]
        caption = clean_phrase(decode_caption(chosen, record))
        if not caption:
            raise SkipSample("caption-empty", name_of(record))
        ready = record.get("phrases") if len(captions) == 1 else None
        nouns = unique_phrases(self.noun_phrases(caption) if ready is None else list(ready))
        # Without a noun phrase ("and so on") there is nothing in the image to point at.
        if not nouns:
            raise SkipSample("caption-without-phrase", f"{name_of(record)}: {caption[:80]!r}")
        return unique_phrases([caption, *nouns] if self.include_caption else nouns)[
            : self.max_phrases
        ]


def _phrases_of(annotation: Any, spelling: dict[str, str]) -> list[str]:
    phrases = unique_phrases(list(annotation.get("phrases") or ()))
    return [spelling.setdefault(phrase.casefold(), phrase) for phrase in phrases]


def draw(rng: np.random.Generator, population: int, number: int) -> list[int]:
    """At most `number` distinct integers below `population`, in random order."""
    return rng.choice(population, min(number, population), replace=False).tolist()


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, from which Detectron2's augmentations draw, for a while."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def draw_sample(
    records: Sequence[Record], index: int, mapper: Mapper, rng: np.random.Generator
) -> Sample | None:
    """The sample of record `index`, or None where it is skipped: the mapper's counter has it then.

    Also where the source itself skips it, at a line that is not in its format.
    """
    try:
        return mapper(records[index], rng)
    except SkipSample as skip:
        mapper.counter.add(skip.kind, skip.message)
        return None


def extract_noun_phrases(caption: str) -> list[str]:
    """The project's noun phrases, imported when they are first needed."""
    from detclip2.data.noun_phrases import extract_noun_phrases as extract

    return extract(caption)
