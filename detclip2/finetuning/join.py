"""Several sets as one: what a file does not list is unknown in its images, not background."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools import mask as masks

from detclip2.data.io.coco_parser import Entry
from detclip2.finetuning.coco_check import OwnData, note_what_is_empty
from detclip2.finetuning.partial_labels import (
    NEGATIVE,
    PARTIAL,
    Labels,
    boxed_names,
    labels_of,
    set_labels,
)

SAME_BOX = 0.8
"""The IoU from which boxes of one name, from two files, are on one object: annotators differ by
less, and distinct objects of one name overlap less."""

_OF_THE_WHOLE = ("category-empty", "category-alone", "image-empty")  # found anew in the joined set


def join(
    sets: Sequence[OwnData], names: Sequence[Sequence[str]], exhaustive: bool = False
) -> OwnData:
    """Join checked sets.

    An image that several files have is one image with the boxes and the absent names of all. Where
    one file boxes a name and another lists it as absent, the box is kept.

    Args:
        sets: at least one.
        names: for each set its C names as they are used, distinct within a set; equal names (but
            for case) of several sets are one.
        exhaustive: whether a name that a file does not list is absent from its images.

    Returns:
        The joined set, whose `image_root` has the folders of all.
    """
    if len(sets) == 1:
        return replace(sets[0], names=list(names[0]))
    index: dict[str, int] = {}
    joined = OwnData(sets[0].path, common_folder([own.image_root for own in sets]))
    joiner = _Joiner(joined)
    for own, used in zip(sets, names, strict=True):
        for name, synonyms in zip(used, own.synonyms, strict=True):
            if name.casefold() not in index:
                index[name.casefold()] = len(index)
                joined.names.append(name)
                joined.synonyms.append(synonyms)
        joiner.add(own, [index[name.casefold()] for name in used])
    joiner.finish(exhaustive)
    note_what_is_empty(joined)
    return joined


def rebase(data: OwnData, image_root: Path) -> OwnData:
    """The same data with file names relative to another folder, which has its images."""
    if image_root == data.image_root:
        return data
    images = [
        {**image, "file_name": os.path.relpath(data.image_root / image["file_name"], image_root)}
        for image in data.images
    ]
    return replace(data, images=images, image_root=image_root)


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder that has all of `folders`; a single one stays as it is."""
    distinct = list(dict.fromkeys(folders))
    if len(distinct) == 1:
        return distinct[0]
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in distinct]))


class _Joiner:
    """Adds sets to one, image by image.

    Args:
        joined: the set to fill.
    """

    def __init__(self, joined: OwnData):
        self.joined = joined
        self.by_file: dict[str, Entry] = {}
        self.boxed: dict[int, set[int]] = {}
        self.boxes: dict[tuple[int, int], list[Entry]] = defaultdict(list)

    def add(self, own: OwnData, index: Sequence[int]) -> None:
        """Add a set; `index` gives the joined index of each of its names."""
        for kind, places in own.findings.items():
            if kind not in _OF_THE_WHOLE:
                for where in places:
                    self.joined.note(kind, f"{own.file}: {where}")
        boxed = boxed_names(own)
        own = rebase(own, self.joined.image_root)
        image_of: dict[int, Entry] = {}
        shared: set[int] = set()  # images that an earlier file has
        for image in own.images:
            labels = labels_of(image, boxed[image["id"]], len(own.names))
            labels = Labels(*({index[i] for i in indices} for indices in labels))
            path = os.path.realpath(own.image_root / image["file_name"])
            known = self.by_file.get(path)
            if known is None:
                known = {**image, "id": len(self.joined.images) + 1}
                self.joined.images.append(known)
                self.by_file[path] = known
                self._set(known, labels)
            else:
                where = f"{own.file}: {image['file_name']}"
                self.joined.note("image-shared", where)
                self._merge(known, labels, where)
                shared.add(known["id"])
            image_of[image["id"]] = known
        self._add_boxes(own, index, image_of, shared)

    def _set(self, image: Entry, labels: Labels) -> None:
        """Keep the labels of an image, as lists: sets would take many times the memory."""
        self.boxed[image["id"]] = labels.boxed
        image.update({NEGATIVE: sorted(labels.negative), PARTIAL: sorted(labels.partial)})

    def _get(self, image: Entry) -> Labels:
        return Labels(self.boxed[image["id"]], set(image[NEGATIVE]), set(image[PARTIAL]))

    def _merge(self, image: Entry, labels: Labels, where: str) -> None:
        """Join the labels of an image that an earlier file has."""
        before = self._get(image)
        boxed = before.boxed | labels.boxed
        complete = (before.boxed - before.partial) | (labels.boxed - labels.partial)
        negative = before.negative | labels.negative
        for name in sorted(negative & boxed):
            self.joined.note("label-contradicted", f"{self.joined.names[name]!r} in {where}")
        partial = (before.partial | labels.partial) - complete
        self._set(image, Labels(boxed, negative - boxed - partial, partial))

    def _add_boxes(
        self,
        own: OwnData,
        index: Sequence[int],
        image_of: dict[int, Entry],
        shared: set[int],
    ) -> None:
        new: dict[tuple[int, int], list[Entry]] = defaultdict(list)
        for one in own.annotations:
            image = image_of[one["image_id"]]
            key = image["id"], index[one["category_id"]]
            new[key].append({**one, "image_id": key[0], "category_id": key[1]})
        for key, boxes in new.items():
            again = _matched(self.boxes[key], boxes) if key[0] in shared else set()
            for i, one in enumerate(boxes):
                if i in again:
                    name = self.joined.names[key[1]]
                    self.joined.note(
                        "box-shared", f"{name!r}: annotation {one['id']} of {own.file}"
                    )
                    continue
                one["id"] = len(self.joined.annotations) + 1
                self.joined.annotations.append(one)
                self.boxes[key].append(one)

    def finish(self, exhaustive: bool) -> None:
        """Drop the lists of images that are known for all names, of all images if `exhaustive`."""
        for image in self.joined.images:
            if exhaustive:
                del image[NEGATIVE], image[PARTIAL]
            else:
                set_labels(image, self._get(image), len(self.joined.names))


def _matched(before: Sequence[Entry], boxes: Sequence[Entry]) -> set[int]:
    """The indices of `boxes` that are on an object of `before`; each object takes one."""
    if not before:
        return set()
    overlap = masks.iou(
        np.array([one["bbox"] for one in boxes], dtype=np.float64),
        np.array([one["bbox"] for one in before], dtype=np.float64),
        [0] * len(before),
    )
    matched: set[int] = set()
    while overlap.max() >= SAME_BOX:
        i, j = np.unravel_index(overlap.argmax(), overlap.shape)
        matched.add(int(i))
        overlap[i], overlap[:, j] = -1, -1
    return matched
