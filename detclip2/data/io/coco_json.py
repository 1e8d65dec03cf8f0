"""Annotations in COCO's json format: a parser, and a table of how each reader treats faults.

`parse_coco` finds all faults of a file. `POLICIES` defines what a fault leads to: evaluations
refuse the file (`read_coco_json`), training skips the entry and counts it (`count_problems`), and
fine-tuning fixes or reports it (`detclip2.finetuning.coco_check`).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

Content = dict[str, Any]
Entry = dict[str, Any]

KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""Part -> the keys of its entries that evaluations need."""


class Policy(NamedTuple):
    """How readers treat an entry with a fault."""

    evaluation: str
    """"refuse" the file, or "" to keep the entry."""
    training: str
    """Its kind in `detclip2.data.skips`; "" if it is not counted."""
    finetuning: str
    """"refuse" the file, the kind of finding to report, or "" if other checks find it."""


POLICIES = {
    "not-an-object": Policy("refuse", "record-malformed", "refuse"),
    "key-missing": Policy("refuse", "record-malformed", "id-twice"),
    "images-id-twice": Policy("refuse", "image-duplicate", "id-twice"),
    "annotations-id-twice": Policy("refuse", "annotation-duplicate", ""),
    "categories-id-twice": Policy("refuse", "category-duplicate", "id-twice"),
    "image-unknown": Policy("", "image-unknown", "image-unknown"),
    "category-unknown": Policy("", "category-unknown", "category-unknown"),
    "box-malformed": Policy("refuse", "", ""),
}
"""Fault -> its policy. Training keeps an annotation with the id of another."""


class Problem(NamedTuple):
    """A fault of an entry, with its place."""

    fault: str
    """A key of `POLICIES`."""
    part: str
    """A key of the file."""
    entry: Any
    sentence: str
    """What is wrong, without the file's name."""


@dataclass
class ParsedCoco:
    """The readable entries of a file, and its problems."""

    path: str
    images: dict[Any, Entry] = field(default_factory=dict)
    """id -> the first image that has it."""
    categories: dict[Any, Entry] = field(default_factory=dict)
    """id -> the first category that has it."""
    annotations: list[Entry] = field(default_factory=list)
    """Those of a known image and, if categories are read, a known category, in the file's order."""
    problems: list[Problem] = field(default_factory=list)

    def add(self, fault: str, part: str, entry: Any, sentence: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(fault, part, entry, sentence))


def _same(identity: Any) -> Any:
    return identity


def parse_coco(
    path: str | os.PathLike[str],
    content: Content,
    keys: Mapping[str, Iterable[str]],
    identity: Callable[[Any], Any] = _same,
    annotation_ids: bool = True,
) -> ParsedCoco:
    """Find the entries of a file and all their faults.

    Args:
        path: path of the file, for messages.
        content: content of the file.
        keys: part to read -> the keys that its entries must have.
        identity: id -> a form of it that can be compared.
        annotation_ids: whether ids of annotations must be unique.

    Raises:
        UserError: a part is not a list.
    """
    parsed = ParsedCoco(os.fspath(path))
    entries = {part: _objects(parsed, content, part) for part in keys}
    for part, found in (("images", parsed.images), ("categories", parsed.categories)):
        for entry in _with_keys(parsed, part, entries.get(part, ()), keys.get(part, ())):
            _by_id(parsed, part, entry, identity, found)
    seen: dict[Any, Entry] = {}
    annotation_keys = tuple(keys.get("annotations", ()))
    checked = _with_keys(parsed, "annotations", entries.get("annotations", ()), annotation_keys)
    for annotation in checked:
        if annotation_ids and "id" in annotation:
            _by_id(parsed, "annotations", annotation, identity, seen)
        image, category = annotation.get("image_id"), annotation.get("category_id")
        name = f"annotation {annotation.get('id')}"
        if _hashable(identity(image)) not in parsed.images:
            sentence = f"{name} is of image {image!r}, which is not listed"
            parsed.add("image-unknown", "annotations", annotation, sentence)
        elif "categories" in keys and _hashable(identity(category)) not in parsed.categories:
            sentence = f"{name} is of category {category!r}, which is not listed"
            parsed.add("category-unknown", "annotations", annotation, sentence)
        else:
            parsed.annotations.append(annotation)
        if "bbox" in annotation_keys and not _is_box(box := annotation["bbox"]):
            sentence = f"{name} has the bbox {box!r}; expected four numbers: x, y, width, height"
            parsed.add("box-malformed", "annotations", annotation, sentence)
    return parsed


def _objects(parsed: ParsedCoco, content: Content, part: str) -> list[Entry]:
    if not isinstance(content[part], list):
        raise UserError(f"{parsed.path}: {part!r} is not a list of objects")
    for position, entry in enumerate(content[part]):
        if not isinstance(entry, dict):
            sentence = f"{part!r} is not a list of objects: entry {position} is not an object"
            parsed.add("not-an-object", part, entry, sentence)
    return [entry for entry in content[part] if isinstance(entry, dict)]


def _with_keys(
    parsed: ParsedCoco, part: str, entries: Iterable[Entry], keys: Iterable[str]
) -> list[Entry]:
    """The entries that have all keys."""
    complete, keys = [], tuple(keys)
    for position, entry in enumerate(entries):
        missing = next((key for key in keys if key not in entry), None)
        if missing is None:
            complete.append(entry)
        else:
            name = f"id {entry['id']}" if "id" in entry else f"entry {position}"
            sentence = f"{name} of {part!r} has no key {missing!r}: {str(entry)[:80]}"
            parsed.add("key-missing", part, entry, sentence)
    return complete


def _by_id(
    parsed: ParsedCoco,
    part: str,
    entry: Entry,
    identity: Callable[[Any], Any],
    found: dict[Any, Entry],
) -> None:
    """Keep the first of several entries with one id, since annotations cannot distinguish them."""
    key = _hashable(identity(entry["id"]))
    if key in found:
        sentence = f"two entries of {part!r} have the id {entry['id']}"
        parsed.add(f"{part}-id-twice", part, entry, sentence)
    else:
        found[key] = entry


def _hashable(identity: Any) -> Any:
    """An id that can be a key of a dict: a list or an object becomes its text."""
    return repr(identity) if isinstance(identity, list | dict) else identity


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_coco_json(path: str | os.PathLike[str], annotation_keys: Iterable[str] = ()) -> Content:
    """The content of a json in COCO's format, which must not have faults that evaluations refuse.

    Args:
        path: the file.
        annotation_keys: keys that annotations must have beside id, image, category and box.

    Raises:
        UserError: the file cannot be read, an entry lacks a key, an id is not unique, a box is not
            four numbers, or there are no images.
    """
    content = read_json(os.fspath(path), KEYS)
    keys = {**KEYS, "annotations": (*KEYS["annotations"], *annotation_keys)}
    for problem in parse_coco(path, content, keys).problems:
        if POLICIES[problem.fault].evaluation == "refuse":
            raise UserError(f"{path}: {problem.sentence}")
    if not content["images"]:
        raise UserError(f"{path}: there are no images in this file to evaluate on or choose from")
    return content


def count_problems(parsed: ParsedCoco, counter: SkipCounter) -> None:
    """Count the problems of a file by the `POLICIES` of training, and log the counts."""
    for problem in parsed.problems:
        if kind := POLICIES[problem.fault].training:
            counter.add(kind, f"{parsed.path}: {problem.sentence}")
    counter.log()


def image_records(
    parsed: ParsedCoco,
    root_of: Callable[[Entry], str],
    new: Callable[[Entry], dict[str, Any]],
) -> dict[Any, dict[str, Any]]:
    """Image id -> a record: file, size, id, and what `new` adds.

    Args:
        parsed: the file; its images have ``file_name``.
        root_of: image -> the folder that its ``file_name`` is relative to.
        new: image -> further keys.
    """
    return {
        identity: {
            "file_name": os.path.join(root_of(image), image["file_name"]),
            **{key: image[key] for key in ("height", "width") if key in image},
            "image_id": image["id"],
            **new(image),
        }
        for identity, image in parsed.images.items()
    }


def read_json(path: str, keys: Iterable[str] = ()) -> Any:
    """The content of a json file, an object that has `keys`.

    Raises:
        UserError: the file cannot be read, is not json in UTF-8, or lacks a key.
    """
    try:
        with PathManager.open(path, "r", encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not json in UTF-8: {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} has no key {missing[0]!r}; expected a json with {list(keys)}")
    return content
