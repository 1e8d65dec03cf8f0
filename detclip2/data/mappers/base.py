"""The base class of mappers: reads and augments images, transforms boxes and packs samples."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, Instances

from detclip2.data.io.coco_values import flag_of
from detclip2.data.io.masks import transform_mask
from detclip2.data.io.resize import ImageInput
from detclip2.data.mappers.records import (
    Record,
    box_of,
    box_problem,
    name_of,
    read_record_image,
    record_size_problem,
)
from detclip2.data.sample import (
    TEXT_KEYS,
    Sample,
    SkipSample,
    declare_supervision,
    text_problem,
)
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

MAX_ASPECT_RATIO = 100


class _View(NamedTuple):
    """An augmented image, with the transforms that its boxes need."""

    image: np.ndarray  # (H, W, 3)
    original_size: tuple[int, int]  # height, width
    transforms: T.TransformList


class Mapper(ABC):
    """Makes samples of one kind of supervision from dataset records.

    Args:
        augmentations: Detectron2 augmentations, applied in order.
        max_phrases: maximum number of phrases of a sample.
        counter: counts skipped data; a new one by default.
        keep: optional keys of the sample format to keep, of `keepable`. None by default, which
            costs no memory or time. "phrase_spans" keeps "caption" too.

    Raises:
        UserError: `max_phrases` is below 1, or this mapper cannot keep a key of `keep`.
    """

    supervision: ClassVar[str]
    """The supervision of its samples: a kind of `detclip2.data.sample`, or a new one."""
    keepable: ClassVar[tuple[str, ...]] = TEXT_KEYS
    """The optional keys that this mapper can keep."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "supervision" in vars(cls):
            declare_supervision(cls.supervision)

    def __init__(
        self,
        augmentations: Sequence[T.Augmentation],
        max_phrases: int,
        counter: SkipCounter | None,
        keep: Sequence[str] = (),
    ):
        if max_phrases < 1:
            raise UserError(f"max_phrases is {max_phrases}; a sample needs at least one phrase")
        if unknown := sorted(set(keep) - set(self.keepable)):
            raise UserError(
                f"keep has {unknown}; {type(self).__name__} can keep {list(self.keepable)}"
            )
        self.keep = frozenset(keep) | ({"caption"} if "phrase_spans" in keep else set())
        self.augmentations = T.AugmentationList(list(augmentations))
        self.max_phrases = max_phrases
        self.counter = SkipCounter(self.supervision) if counter is None else counter

    @abstractmethod
    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """Make a sample of a record.

        Args:
            record: a dataset record; never changed.
            rng: generator of all random choices; a new one, seeded by the system, if None.

        Raises:
            SkipSample: the record cannot become a sample.
        """

    def _view(self, record: Record, rng: np.random.Generator) -> _View:
        image = read_record_image(record)
        size = image.shape[0], image.shape[1]
        if problem := record_size_problem(record, image):
            raise SkipSample("image-mismatched", f"{name_of(record)} {problem}")
        if max(size) > MAX_ASPECT_RATIO * min(size):
            raise SkipSample("image-extreme", f"{name_of(record)}: {size}")
        with numpy_seed(int(rng.integers(2**32))):
            augmented = ImageInput(image)
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
            "supervision": self.supervision,
            "phrases": phrases,
            "num_positives": num_positives,
            "own_phrases_only": own_phrases_only,
            "not_exhaustive": torch.tensor(list(not_exhaustive), dtype=torch.int64),
            **self._texts(record),
        }

    def _texts(self, record: Record) -> Sample:
        """The texts of the record that `keep` asks for."""
        texts = {}
        for key in TEXT_KEYS:
            if key in self.keep:
                if problem := text_problem(key, record.get(key)):
                    raise SkipSample("record-malformed", f"{name_of(record)}: {problem}")
                texts[key] = record[key]
        return texts

    def _boxes(self, record: Record, view: _View) -> tuple[list[tuple[Any, dict]], list[Any]]:
        """The annotations with a box in the view, each with its box, and those without a valid box.

        An annotation whose box the augmentation moved out of the view is in neither list.
        """
        boxes, annotations, unboxed = [], [], []
        for annotation in record.get("annotations", ()):
            try:
                box = box_of(annotation)
                problem = box_problem(box, view.original_size)
            except ValueError as error:
                problem = str(error)
            if problem:
                self.counter.add("box-invalid", f"{name_of(record)}: {problem}")
            if problem or flag_of(annotation.get("iscrowd")) is not False:
                unboxed.append(annotation)
            else:
                boxes.append(box)
                annotations.append(annotation)
        boxed = []
        for annotation, box in zip(annotations, self._moved(boxes, view), strict=True):
            x1, y1, x2, y2 = box.astype(np.float32)
            if x2 > x1 and y2 > y1:
                moved = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
                if "gt_masks" in self.keep:
                    moved["mask"] = self._mask(record, annotation, view)
                boxed.append((annotation, moved))
        return boxed, unboxed

    def _moved(self, boxes: Sequence[Any], view: _View) -> np.ndarray:
        """N boxes, XYXY px, moved with the view and clipped to it: (N, 4)."""
        height, width = view.image.shape[:2]
        corners = view.transforms.apply_box(np.array(boxes, dtype=np.float64).reshape(-1, 4))
        return np.minimum(corners.clip(min=0), [width, height, width, height])

    def _mask(self, record: Record, annotation: Any, view: _View) -> np.ndarray:
        """The mask of an annotation in the view, (H, W) bool; all False if it has none."""
        size = view.image.shape[0], view.image.shape[1]
        if segmentation := annotation.get("segmentation"):
            try:
                mask = transform_mask(segmentation, view.transforms, view.original_size, size)
                if mask.any():
                    return mask
                self.counter.add("mask-empty", f"{name_of(record)}: box {annotation['bbox']}")
            except ValueError as error:
                self.counter.add("mask-invalid", f"{name_of(record)}: {error}")
        return np.zeros(size, dtype=bool)

    def _label(
        self,
        record: Record,
        view: _View,
        labelled: list[tuple[list, dict]],
        without_box: list,
        rng: np.random.Generator,
    ) -> tuple[list, Instances]:
        """The positives of a sample, and its instances, whose classes are indices of positives.

        `labelled` has the labels (of one hashable type) of each box in the view, and `without_box`
        the labels that are positive without a box.
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
        instances = detection_utils.annotations_to_instances(annotations, size)
        if "gt_masks" in self.keep:
            masks = np.zeros((len(annotations), *size), dtype=bool)
            for mask, annotation in zip(masks, annotations, strict=True):
                mask[:] = annotation["mask"]
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
        return positives, instances


def draw_sample(
    records: Sequence[Record], index: int, mapper: Mapper, rng: np.random.Generator
) -> Sample | None:
    """The sample of record `index`; None if the mapper or the records skip it, which is counted."""
    try:
        return mapper(records[index], rng)
    except SkipSample as skip:
        mapper.counter.add(skip.kind, skip.message)
        return None


def draw(rng: np.random.Generator, population: int, number: int) -> list[int]:
    """At most `number` distinct integers below `population`, in random order."""
    return rng.choice(population, min(number, population), replace=False).tolist()


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which Detectron2's augmentations use, within the context."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
