"""Parser of annotations in COCO's json format: its entries, their values, and all faults."""

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detclip2.data.io.coco_fractions import find_fractions
from detclip2.data.io.coco_values import (
    edge_of,
    flag_of,
    four_finite_numbers,
    four_numbers,
    id_of,
    is_unstated,
    name_of_category,
    number_of,
)
from detclip2.utils.errors import UserError, shown

Content = dict[str, Any]
Entry = dict[str, Any]
Id = int | str

KEYS = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""Part -> the keys of its entries that evaluations need."""
ID_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of LVIS's images."""


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
    images: dict[Id, Entry] = field(default_factory=dict)
    """id -> the first image that has it."""
    categories: dict[Id, Entry] = field(default_factory=dict)
    """id -> the first category that has it."""
    annotations: list[Entry] = field(default_factory=list)
    """Those of a known image and, if categories are read, a known category, in the file's order."""
    problems: list[Problem] = field(default_factory=list)
    joined: dict[Id, Id] = field(default_factory=dict)
    """id of an image whose file is listed before -> id of that one."""
    in_fractions: bool = False
    """Whether boxes are fractions of their images; `to_pixels` scales them."""

    def add(self, fault: str, part: str, entry: Any, sentence: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(fault, part, entry, sentence))


def parse_coco(
    path: str | os.PathLike[str],
    content: Content,
    keys: Mapping[str, Iterable[str]],
    annotation_ids: bool = True,
    one_image_a_file: bool = True,
) -> ParsedCoco:
    """Find the entries of a file and all their faults.

    Entries of `content` are changed in place to the values that they mean: ids (`id_of`), names,
    flags and sizes; sizes and areas that are not stated are removed.

    Args:
        path: path of the file, for messages.
        content: content of the file.
        keys: part to read -> the keys that its entries must have.
        annotation_ids: whether ids of annotations must be unique.
        one_image_a_file: whether images with the same file are one.

    Raises:
        UserError: a part is not a list, or boxes may be pixels or fractions.
    """
    parsed = ParsedCoco(os.fspath(path))
    entries = {part: _objects(parsed, content, part) for part in keys}
    for image in _with_keys(parsed, "images", entries, keys):
        _read_image_values(parsed, image)
        _by_id(parsed, "images", image, parsed.images)
    if one_image_a_file:
        _join_images(parsed)
    for category in _with_keys(parsed, "categories", entries, keys):
        if "name" in category:
            category["name"] = name_of_category(category["name"])
        _by_id(parsed, "categories", category, parsed.categories)
    _read_annotations(parsed, entries, keys, annotation_ids)
    if "annotations" in keys:
        _find_fractions(parsed)
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
    parsed: ParsedCoco,
    part: str,
    entries: Mapping[str, Iterable[Entry]],
    keys: Mapping[str, Iterable[str]],
) -> list[Entry]:
    """The entries of a part that have all keys."""
    complete, needed = [], tuple(keys.get(part, ()))
    for position, entry in enumerate(entries.get(part, ())):
        # A box of null may be that of a mask.
        missing = next((k for k in needed if k not in entry or _is_null(entry, k)), None)
        if missing is None:
            complete.append(entry)
        else:
            has = "has null as" if missing in entry else "has no key"
            name = f"entry {position}" if entry.get("id") is None else f"id {shown(entry['id'])}"
            sentence = f"{name} of {part!r} {has} {missing!r}: {shown(entry)}"
            parsed.add("key-missing", part, entry, sentence)
    return complete


def _is_null(entry: Entry, key: str) -> bool:
    return entry[key] is None and key != "bbox"


def _read_image_values(parsed: ParsedCoco, image: Entry) -> None:
    """Read the file's name, the size and LVIS's lists of an image."""
    if not isinstance(image.get("file_name", ""), str):
        image["file_name"] = name_of_category(image["file_name"])
    for edge in image.keys() & {"width", "height"}:
        stated = image[edge]
        if (read := edge_of(stated)) is not None:
            image[edge] = read
            continue
        del image[edge]
        if not is_unstated(stated):
            sentence = f"image {shown(image['id'])} has the {edge} {shown(stated)}; expected pixels"
            parsed.add("size-malformed", "images", image, sentence)
    for key in image.keys() & set(ID_LISTS):
        ids = image[key]
        if isinstance(ids, list):
            image[key] = [id_of(identity) for identity in ids]
            continue
        del image[key]
        if ids is not None:
            sentence = (
                f"image {shown(image['id'])} has {key!r} {shown(ids)}; expected a list of ids"
            )
            parsed.add("list-malformed", "images", image, sentence)


def _by_id(parsed: ParsedCoco, part: str, entry: Entry, found: dict[Id, Entry]) -> None:
    """Keep the first of several entries with one id, since annotations cannot distinguish them."""
    key = entry["id"] = id_of(entry["id"])
    if key in found:
        sentence = f"two entries of {part!r} have the id {shown(key)}"
        parsed.add(f"{part}-id-twice", part, entry, sentence)
    else:
        found[key] = entry


def _join_images(parsed: ParsedCoco) -> None:
    """Make images with one file one: the first, with what the others state beyond it."""
    first_of: dict[str, Id] = {}
    for key, image in list(parsed.images.items()):
        name = file_of(image)
        first = first_of.setdefault(posixpath.normpath(name.replace("\\", "/")), key)
        if not name or first == key:
            continue
        sentence = f"{shown(name)} is listed as image {shown(first)} and as image {shown(key)}"
        parsed.add("image-listed-twice", "images", image, sentence)
        parsed.joined[key] = first
        kept = parsed.images[first]
        for listed in ID_LISTS:
            if listed in image:
                kept[listed] = list(dict.fromkeys([*kept.get(listed, ()), *image[listed]]))
        parsed.images[first] = {**image, **kept}
        del parsed.images[key]


def file_of(image: Entry) -> str:
    """The file of an image, relative to the folder of images; "" if it has none."""
    if "neg_category_ids" in image and isinstance(image.get("coco_url"), str):
        # LVIS v1 has no file_name, and v0.5 has that of COCO 2014; the URL has that of 2017.
        return os.path.join(*image["coco_url"].split("/")[-2:])
    return str(image.get("file_name", ""))


def _read_annotations(
    parsed: ParsedCoco,
    entries: Mapping[str, Iterable[Entry]],
    keys: Mapping[str, Iterable[str]],
    unique_ids: bool,
) -> None:
    seen: dict[Id, Entry] = {}
    joined_boxes: set[Any] = set()
    of_joined = set(parsed.joined.values())
    for annotation in _with_keys(parsed, "annotations", entries, keys):
        name = f"annotation {shown(annotation.get('id'))}"
        if not _read_annotation_values(parsed, annotation, name):
            continue
        image, category = annotation.get("image_id"), annotation.get("category_id")
        image_key, category_key = id_of(image), id_of(category)
        image_key = parsed.joined.get(image_key, image_key)
        for key, identity in (("image_id", image_key), ("category_id", category_key)):
            if annotation.get(key) is not None:
                annotation[key] = identity
        if unique_ids and annotation.get("id") is not None:
            first = seen.setdefault(annotation_key := id_of(annotation["id"]), annotation)
            if first is not annotation:
                repeated = first == annotation
                fault = "annotation-repeated" if repeated else "annotations-id-twice"
                sentence = f"two entries of 'annotations' have the id {shown(annotation_key)}"
                parsed.add(fault, "annotations", annotation, sentence)
                if repeated:
                    continue
        if image_key in of_joined and (box := four_numbers(annotation.get("bbox"))):
            if (image_key, category_key, box) in joined_boxes:
                sentence = f"{name} repeats one of the same file under another image id"
                parsed.add("annotation-repeated", "annotations", annotation, sentence)
                continue
            joined_boxes.add((image_key, category_key, box))
        if image_key not in parsed.images:
            sentence = f"{name} is of image {shown(image)}, which is not listed"
            parsed.add("image-unknown", "annotations", annotation, sentence)
        elif "categories" in keys and category_key not in parsed.categories:
            sentence = f"{name} is of category {shown(category)}, which is not listed"
            parsed.add("category-unknown", "annotations", annotation, sentence)
        else:
            parsed.annotations.append(annotation)
        if "bbox" in keys["annotations"] and four_finite_numbers(annotation["bbox"]) is None:
            sentence = (
                f"{name} has the bbox {shown(annotation['bbox'])}; expected four numbers: x, y, "
                "width, height"
            )
            parsed.add("box-malformed", "annotations", annotation, sentence)


def _read_annotation_values(parsed: ParsedCoco, annotation: Entry, name: str) -> bool:
    """Read the flags, box and area of an annotation; False if a flag cannot be read."""
    for key in ("iscrowd", "ignore"):
        if key in annotation:
            flag = flag_of(annotation[key])
            if flag is None:
                sentence = f"{name} has {key!r} {shown(annotation[key])}; expected 0 or 1"
                parsed.add("flag-malformed", "annotations", annotation, sentence)
                return False
            annotation[key] = int(flag)
    if annotation.get("ignore"):  # of some conversions: not to be counted, as a crowd
        annotation["iscrowd"] = 1
    box = annotation.get("bbox")
    if isinstance(box, list) and any(isinstance(value, str) for value in box):
        annotation["bbox"] = list(four_numbers(box) or box)
    if "area" in annotation:
        area = number_of(annotation["area"])
        if area is None or not 0 <= area < float("inf"):
            del annotation["area"]
        elif isinstance(annotation["area"], str):
            annotation["area"] = area
    return True


def _find_fractions(parsed: ParsedCoco) -> None:
    """Set ``in_fractions``; skip boxes below a pixel."""
    parsed.in_fractions, specks = find_fractions(parsed.path, parsed.annotations)
    for one in specks:
        name = f"annotation {shown(one.get('id'))}"
        sentence = f"{name} has the bbox {shown(one['bbox'])}, less than a pixel"
        parsed.add("box-speck", "annotations", one, sentence)
    if specks:
        skipped = set(map(id, specks))
        parsed.annotations = [one for one in parsed.annotations if id(one) not in skipped]
