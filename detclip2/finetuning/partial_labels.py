"""Names that an image is known to have, known not to have, and those that are unknown in it.

A json in COCO's format lists, by silence, every name without a box as absent. Three keys of an
image say otherwise:

- ``neg_category_ids`` (LVIS): the names that are not in the image. Others without a box are
  unknown.
- ``not_exhaustive_category_ids`` (LVIS): names of which not all instances are boxed.
- ``exhaustive_for`` (ours): the names of which all instances are boxed, as a list or as the name of
  a built-in vocabulary, such as "coco". Others are unknown, or not exhaustive if they have a box.

`OwnData` has the first two, whatever the json has: an image without ``neg_category_ids`` is known
for all names.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from detclip2.data.io.coco_parser import ID_LISTS, Entry, Id, ParsedCoco
from detclip2.data.text.names import BUILTIN_NAMES, read_builtin
from detclip2.finetuning.names import same_name
from detclip2.utils.errors import UserError, shown

if TYPE_CHECKING:
    from detclip2.finetuning.coco_check import OwnData

NEGATIVE, PARTIAL = ID_LISTS
EXHAUSTIVE = "exhaustive_for"
KEYS = (NEGATIVE, PARTIAL, EXHAUSTIVE)
_ALIASES = {"coco80": "coco"}


class Labels(NamedTuple):
    """Indices of names by what is known of them in an image; a name that is in none is unknown."""

    boxed: set[int]
    negative: set[int]
    partial: set[int]
    """Perhaps present, with instances that are not boxed."""


class Counts(NamedTuple):
    """The images in which a name is positive (has a box), negative and unknown."""

    positive: int
    negative: int
    unknown: int


def boxed_names(data: "OwnData") -> dict[int, set[int]]:
    """Image id -> the indices of names that have a box in it."""
    boxed: dict[int, set[int]] = defaultdict(set)
    for one in data.annotations:
        boxed[one["image_id"]].add(one["category_id"])
    return boxed


def labels_of(image: Entry, boxed: set[int], num_names: int) -> Labels:
    """The labels of an image of `OwnData`.

    Args:
        image: an entry of ``images``.
        boxed: indices of the names that have a box.
        num_names: C.
    """
    partial = set(image.get(PARTIAL, ()))
    negative = set(image.get(NEGATIVE, range(num_names))) - boxed - partial
    return Labels(boxed, negative, partial)


def set_labels(image: Entry, labels: Labels, num_names: int) -> None:
    """Write labels to an image of `OwnData`: the lists that are not empty by silence."""
    known = labels.boxed | labels.negative | labels.partial
    lists = {
        NEGATIVE: sorted(labels.negative) if len(known) < num_names else None,
        PARTIAL: sorted(labels.partial) or None,
    }
    for key, indices in lists.items():
        image.pop(key, None)
        if indices is not None:
            image[key] = indices


def read_partial_labels(
    data: "OwnData",
    parsed: ParsedCoco,
    index_of: Mapping[Id, int],
    image_of: Mapping[Id, Entry | None],
) -> None:
    """Add the labels of the json to the images; images of which nothing is known are dropped.

    Args:
        data: with names, images and annotations.
        parsed: the json.
        index_of: id of a category in the file -> index of its name.
        image_of: id in the file -> the image, None if it is skipped.

    Raises:
        UserError: ``exhaustive_for`` is neither a list nor a built-in vocabulary.
    """
    boxed = boxed_names(data)
    exhaustive = _ExhaustiveFor(data)
    dropped = set()
    for identity, entry in parsed.images.items():
        image = image_of[identity]
        if image is None or not any(key in entry for key in KEYS):
            continue
        has = boxed[image["id"]]
        partial = _indices(data, image, entry, PARTIAL, index_of)
        negative = _indices(data, image, entry, NEGATIVE, index_of)
        for index in sorted(negative & has):
            data.note("label-contradicted", f"{data.names[index]!r} in {image['file_name']}")
        if EXHAUSTIVE in entry:
            complete = exhaustive.indices(entry[EXHAUSTIVE], image["file_name"])
            partial |= has - complete
            negative |= complete
        elif NEGATIVE not in entry:
            negative = set(range(len(data.names)))
        labels = Labels(has, negative - has - partial, partial)
        set_labels(image, labels, len(data.names))
        if not labels.boxed and not labels.negative:
            data.note("image-unlabelled", image["file_name"])
            dropped.add(image["id"])
    data.images = [image for image in data.images if image["id"] not in dropped]


def _indices(
    data: "OwnData",
    image: Entry,
    entry: Entry,
    key: str,
    index_of: Mapping[Id, int],
) -> set[int]:
    """The names of a list of category ids."""
    found = {identity: index_of.get(identity) for identity in entry.get(key, ())}
    for identity, index in found.items():
        if index is None:
            data.note("label-unknown", f"{shown(identity)} in {key} of {image['file_name']}")
    return {index for index in found.values() if index is not None}


class _ExhaustiveFor:
    """The names that values of ``exhaustive_for`` mean."""

    def __init__(self, data: "OwnData"):
        self.data = data
        self.index = {same_name(name): i for i, name in enumerate(data.names)}
        self.of_builtin: dict[str, set[int]] = {}

    def indices(self, value: Any, where: str) -> set[int]:
        """Indices of names; list entries that are not a category are noted."""
        if isinstance(value, str):
            return self._builtin(value, where)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise UserError(
                f"{self.data.path}: {EXHAUSTIVE!r} of {where} is {shown(value)}; expected a "
                f"list of names or one of {_vocabularies()}"
            )
        for name in value:
            if same_name(name) not in self.index:
                self.data.note("label-unknown", f"{shown(name)} in {EXHAUSTIVE} of {where}")
        return self._known(value)

    def _builtin(self, value: str, where: str) -> set[int]:
        if value not in self.of_builtin:
            name = _ALIASES.get(value, value)
            if name not in BUILTIN_NAMES:
                raise UserError(
                    f"{self.data.path}: {EXHAUSTIVE!r} of {where} is {shown(value)}; there are the "
                    f"vocabularies {_vocabularies()}; write other names as a list"
                )
            entries, _ = read_builtin(name)
            self.of_builtin[value] = self._known(name for entry in entries for name in entry)
        return self.of_builtin[value]

    def _known(self, names: Iterable[str]) -> set[int]:
        return {self.index[key] for key in map(same_name, names) if key in self.index}


def _vocabularies() -> str:
    return ", ".join((*_ALIASES, *BUILTIN_NAMES))


def count_labels(data: "OwnData", names: list[str], exhaustive: bool = False) -> list[Counts]:
    """For each of `names`, the images in which it is positive, negative and unknown.

    Args:
        data: the images.
        names: names of any file, compared ignoring case.
        exhaustive: whether names that `data` does not have are negative, not unknown.
    """
    total, boxed = len(data.images), boxed_names(data)
    positive, negative = [0] * len(data.names), [0] * len(data.names)
    complete = 0  # images without a list of negatives, most of a large set
    for image in data.images:
        labels = Labels(boxed[image["id"]], set(image.get(NEGATIVE, ())), set())
        if NEGATIVE not in image:
            complete += 1
            for index in labels.boxed | set(image.get(PARTIAL, ())):
                negative[index] -= 1
        for index in labels.boxed:
            positive[index] += 1
        for index in labels.negative:
            negative[index] += 1
    counts = {
        name.casefold(): Counts(has, lacks + complete, total - has - lacks - complete)
        for name, has, lacks in zip(data.names, positive, negative, strict=True)
    }
    others = Counts(0, total, 0) if exhaustive else Counts(0, 0, total)
    return [counts.get(name.casefold(), others) for name in names]
