"""What the mappers share: reading, augmenting, boxes, and packing into the sample format."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances

from detclip2.data.records import Record, box_of, box_problem, name_of, read_record_image
from detclip2.data.sample import SkipSample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

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
