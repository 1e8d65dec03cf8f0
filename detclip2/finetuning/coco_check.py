"""Checks of a user's annotations in COCO's format, with fixes where the meaning is clear.

Tools differ in what they write as COCO's format. Each fault is fixed, or skipped and counted. If no
training is possible with the rest, the file is refused in a sentence before the training starts.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detclip2.data.io.coco_json import POLICIES, read_json
from detclip2.data.io.coco_parser import Entry, Id, ParsedCoco, Problem, file_of, parse_coco
from detclip2.data.io.coco_values import four_finite_numbers, scaled
from detclip2.data.io.image import Header
from detclip2.data.io.image_files import check_images, size_problem, stated_size
from detclip2.data.io.masks import box_of_mask
from detclip2.data.text.clean import clean_phrase
from detclip2.finetuning import partial_labels
from detclip2.utils.errors import UserError, shown
from detclip2.utils.paths import FolderOfFiles

FINDINGS = {
    "key-unknown": ("keys that are not of COCO's format", "ignored"),
    "id-not-integer": ("ids that are not integers", "renumbered"),
    "id-twice": ("entries without an id, or with that of an earlier one", "skipped"),
    "annotation-repeated": ("exact repeats of an annotation", "skipped"),
    "annotation-id-twice": ("annotations with the id of another one", "renumbered"),
    "box-derived": ("annotations with a polygon or RLE and no box", "boxed by its mask"),
    "box-corners": ("boxes that hold two corners, not a width and height", "read as corners"),
    "box-fraction": ("boxes in fractions of their image", "read as x, y, width, height"),
    "box-speck": ("boxes below a pixel: fractions of the image?", "skipped"),
    "box-flipped": ("boxes of negative width or height", "corners sorted"),
    "box-outside": ("boxes that reach beyond their image", "clipped to it"),
    "box-unusable": ("boxes without four numbers, or without area in their image", "skipped"),
    "box-crowd": ("boxes of crowds (iscrowd or ignore)", "kept: not objects to find"),
    "box-all-crowds": ("all boxes are of crowds: nothing to find", "kept: AP is undefined"),
    "image-unknown": ("annotations of an image that is not listed", "skipped"),
    "category-unknown": ("annotations of a category that is not listed or named", "skipped"),
    "category-twice": ("categories with the name of an earlier one", "merged"),
    "category-empty": ("categories without a box", "kept: detected by name only"),
    "category-alone": ("a single category", "kept: it learns from background only"),
    "image-listed-twice": ("files that are listed under several ids", "made one image"),
    "image-missing": ("images that are not in the folder", "skipped"),
    "image-damaged": ("images that cannot be read", "skipped"),
    "size-malformed": ("stated widths or heights that are no sizes", "that of the file counts"),
    "image-rotated": ("images turned by EXIF: boxes look to be in the sensor's frame", "skipped"),
    "image-mismatched": ("images of another size than stated", "skipped"),
    "image-empty": ("images without a box", "kept: all background"),
    "image-unlabelled": ("images without any known name", "skipped"),
    "image-shared": ("images that several files have", "joined, with the labels of all"),
    "box-shared": ("boxes of one name on an object that several files have", "kept once"),
    "label-unknown": ("lists of absent or exhaustive names with another entry", "entry skipped"),
    "label-contradicted": ("names listed as absent that have a box", "the box is kept"),
}
"""Kind of finding -> its description, and what is done; in the order of reports."""

_KNOWN_KEYS = {
    "the file": {"info", "licenses", "images", "annotations", "categories", "type"},
    "images": {
        "id", "file_name", "width", "height", "license", "flickr_url", "coco_url",
        "date_captured", *partial_labels.KEYS,
    },
    "annotations": {
        "id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "ignore",
        "keypoints", "num_keypoints", "caption",
    },
    "categories": {
        "id", "name", "supercategory", "keypoints", "skeleton", "synonyms", "synset", "def",
        "frequency", "image_count", "instance_count",
    },
}  # fmt: skip
_KEYS = {"images": ("id",), "annotations": (), "categories": ("id",)}
_ENOUGH_BOXES = 10  # the least that decide the meaning of four numbers


@dataclass
class OwnData:
    """The usable part of a json and its images."""

    path: Path
    image_root: Path
    """The folder that ``file_name`` is relative to."""
    names: list[str] = field(default_factory=list)
    """C distinct names, as phrases."""
    synonyms: list[tuple[str, ...]] = field(default_factory=list)
    """Those that the json has for each name."""
    images: list[Entry] = field(default_factory=list)
    """``id`` from 1, ``file_name``, ``height``, ``width``; where not every name is known, the lists
    of `detclip2.finetuning.partial_labels`, as indices into `names`."""
    annotations: list[Entry] = field(default_factory=list)
    """``id`` from 1, ``image_id``, ``category_id`` (index into `names`), ``bbox`` XYWH inside the
    image, ``area``, ``iscrowd``."""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> each place where it was found."""

    @property
    def file(self) -> str:
        """The json in messages, with its folder: many exports have one name for all."""
        return f"{self.path.absolute().parent.name}/{self.path.name}"

    def note(self, kind: str, where: str) -> None:
        """Count a finding."""
        self.findings.setdefault(kind, []).append(where)

    def counts(self) -> list[tuple[int, int]]:
        """Images and boxes of each category."""
        boxes = Counter(one["category_id"] for one in self.annotations)
        pairs = {(one["category_id"], one["image_id"]) for one in self.annotations}
        images = Counter(category for category, _ in pairs)
        return [(images[i], boxes[i]) for i in range(len(self.names))]

    def to_coco(self, names: list[str]) -> Entry:
        """The data as COCO json, with category ids from 1 in the order of `names`."""
        identity = {name.casefold(): i for i, name in enumerate(names, 1)}
        ids = [identity[name.casefold()] for name in self.names]
        lists = (partial_labels.NEGATIVE, partial_labels.PARTIAL)
        return {
            "images": [
                {**image, **{key: [ids[i] for i in image[key]] for key in lists if key in image}}
                for image in self.images
            ],
            "annotations": [
                {**one, "category_id": ids[one["category_id"]]} for one in self.annotations
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        }


def read_own_data(
    path: str | os.PathLike[str], image_root: str | os.PathLike[str], exhaustive: bool = False
) -> OwnData:
    """Read and check a json in COCO's format and its images.

    Args:
        path: the json.
        image_root: the folder that its ``file_name`` is relative to.
        exhaustive: whether a name without a box is absent, whatever the lists of an image say.

    Raises:
        UserError: the json cannot be read or has another format, half of the images are missing, or
            no image, category or box remains.
    """
    path = Path(path)
    content = read_json(os.fspath(path), _KEYS)
    parsed = parse_coco(path, content, _KEYS)
    data = OwnData(path, Path(image_root))
    for problem in parsed.problems:
        _note_problem(data, problem)
    _note_unknown_keys(data, content)
    index_of = _read_categories(data, parsed)
    image_of = _read_images(data, parsed)
    _read_annotations(data, parsed, index_of, image_of)
    if not exhaustive:
        partial_labels.read_partial_labels(data, parsed, index_of, image_of)
    note_what_is_empty(data)
    return data


def _note_problem(data: OwnData, problem: Problem) -> None:
    """Refuse or count a fault of the file, as `POLICIES` defines."""
    finding = POLICIES[problem.fault].finetuning
    if finding == "refuse":
        raise UserError(f"{data.path}: {problem.sentence}")
    if finding:
        data.note(finding, problem.sentence)


def _note_unknown_keys(data: OwnData, content: Entry) -> None:
    for part, known in _KNOWN_KEYS.items():
        entries = [content] if part == "the file" else content[part]
        for key in sorted({str(key) for one in entries for key in one} - known):
            data.note("key-unknown", f"{shown(key)} of {part}")


def _read_categories(data: OwnData, parsed: ParsedCoco) -> dict[Id, int]:
    """Fill `names`; return id in the file -> index into `names`."""
    index_of: dict[Id, int] = {}
    by_name: dict[str, int] = {}
    for identity, entry in parsed.categories.items():
        where = f"category {shown(entry.get('name'))}"
        _check_id(data, entry, where)
        name = clean_phrase(entry.get("name", "").replace("_", " "))
        if not name:
            continue
        if name.casefold() in by_name:
            data.note("category-twice", where)
        else:
            by_name[name.casefold()] = len(data.names)
            data.names.append(name)
            data.synonyms.append(_synonyms(entry))
        index_of[identity] = by_name[name.casefold()]
    if not data.names:
        raise UserError(f"{data.path}: 'categories' has no entry with an id and a name")
    return index_of


def _synonyms(category: Entry) -> tuple[str, ...]:
    listed = category.get("synonyms")
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def _read_images(data: OwnData, parsed: ParsedCoco) -> dict[Id, Entry | None]:
    """Fill `images`; return id in the file -> the image, None if it is skipped."""
    root = data.image_root
    image_of: dict[Id, Entry | None] = dict.fromkeys(parsed.images)
    present: dict[Id, str] = {}
    folder = FolderOfFiles(root)
    for identity, entry in parsed.images.items():
        file_name = entry.get("file_name") or file_of(entry)
        where = file_name or f"image {identity}"
        _check_id(data, entry, where)
        try:
            path = folder.path(file_name)
        except UserError as error:
            data.note("image-missing", str(error))
            continue
        if file_name and os.path.isfile(path):
            present[identity] = path
        else:
            data.note("image-missing", where)
    for (identity, path), header in zip(
        present.items(), check_images(present.values()), strict=True
    ):
        file_name = path.removeprefix(os.path.join(root, ""))
        if not isinstance(header, Header):
            data.note("image-damaged", str(header).removeprefix(f"{root}{os.sep}"))
            continue
        stated = stated_size(parsed.images[identity], header.size)
        if problem := size_problem(stated, header):
            turned = stated == header.stored
            data.note("image-rotated" if turned else "image-mismatched", f"{file_name} {problem}")
            continue
        image = {"id": len(data.images) + 1, "file_name": file_name}
        data.images.append({**image, "width": header.size[0], "height": header.size[1]})
        image_of[identity] = data.images[-1]
    missing = data.findings.get("image-missing", [])
    if missing and 2 * len(missing) >= len(parsed.images):
        raise UserError(
            f"{data.path}: {len(missing)} of {len(parsed.images)} images are not in {root}, such "
            f"as {missing[0]}: is this the folder that file_name is relative to?"
        )
    if not data.images:
        raise UserError(f"{data.path}: no image can be used ({_first_problem(data, 'image')})")
    return image_of


def _read_annotations(
    data: OwnData,
    parsed: ParsedCoco,
    index_of: dict[Id, int],
    image_of: dict[Id, Entry | None],
) -> None:
    """Fill `annotations`."""
    boxed: list[tuple[Entry, Entry, int, tuple[float, ...]]] = []
    seen: set[Any] = set()
    for entry in parsed.annotations:
        where = f"annotation {shown(entry.get('id'))}"
        image, index = image_of[entry["image_id"]], index_of.get(entry.get("category_id", ""))
        if image is None:
            continue
        if index is None:  # a category without a name
            data.note("category-unknown", f"{where}: category {shown(entry.get('category_id'))}")
            continue
        where = f"{where} in {image['file_name']}"
        numbers = four_finite_numbers(entry.get("bbox"))
        box: tuple[float, ...] | None = numbers
        if numbers and parsed.in_fractions:
            data.note("box-fraction", f"{where}: {list(numbers)}")
            box = scaled(numbers, image["width"], image["height"])
        if box is None and entry.get("segmentation"):
            box = box_of_mask(entry["segmentation"], (image["height"], image["width"]))
            if box is not None:
                data.note("box-derived", where)
        if box is None:
            data.note("box-unusable", f"{where}: {shown(entry.get('bbox'))}")
            continue
        if (what := (image["id"], index, box)) in seen:
            data.note("annotation-repeated", where)
            continue
        seen.add(what)
        boxed.append((entry, image, index, box))
    corners = not parsed.in_fractions and are_corners(
        [box for *_, box in boxed], [image for _, image, *_ in boxed]
    )
    for entry, image, index, box in boxed:
        where = f"annotation {shown(entry.get('id'))} in {image['file_name']}"
        if corners:
            data.note("box-corners", where)
            box = (box[0], box[1], box[2] - box[0], box[3] - box[1])
        inside = _inside(data, box, image, where)
        if inside is not None:
            if entry.get("iscrowd"):
                data.note("box-crowd", where)
            data.annotations.append(
                {
                    "id": len(data.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": index,
                    "bbox": inside,
                    "area": inside[2] * inside[3],
                    "iscrowd": entry.get("iscrowd", 0),
                }
            )
    if not data.annotations:
        raise UserError(
            f"{data.path}: no box can be used ({_first_problem(data, 'box', 'category', 'image')})"
        )


def note_what_is_empty(data: OwnData) -> None:
    """Note names and images without boxes, and a name that is alone."""
    for name, (_, boxes) in zip(data.names, data.counts(), strict=True):
        if not boxes:
            data.note("category-empty", repr(name))
    if all(one["iscrowd"] for one in data.annotations):
        data.note("box-all-crowds", os.fspath(data.path))
    with_boxes = {one["image_id"] for one in data.annotations}
    for image in data.images:
        if image["id"] not in with_boxes:
            data.note("image-empty", image["file_name"])
    if len(data.names) == 1:
        data.note("category-alone", repr(data.names[0]))


def _check_id(data: OwnData, entry: Entry, where: str) -> None:
    """Note the id of an image or category if it is not an integer."""
    value = entry["id"]
    if not isinstance(value, int) or isinstance(value, bool):
        data.note("id-not-integer", f"{shown(value)} of {where}")


def are_corners(boxes: list[tuple[float, ...]], images: list[Entry]) -> bool:
    """Whether the boxes of a file are x1, y1, x2, y2.

    They are if most of them, read as COCO's x, y, width, height, leave their image, and none does
    as corners. A few boxes do not suffice for this conclusion.
    """
    if len(boxes) < _ENOUGH_BOXES:
        return False
    x, y, third, fourth = np.array(boxes).T
    width, height = np.array([(image["width"], image["height"]) for image in images]).T
    as_sizes = (x + third > width + 1) | (y + fourth > height + 1)
    as_corners = (third > x) & (fourth > y) & (third <= width + 1) & (fourth <= height + 1)
    return bool(as_sizes.mean() > 0.5 and as_corners.all())


def _inside(data: OwnData, box: tuple[float, ...], image: Entry, where: str) -> list[float] | None:
    """A box XYWH, cut to its image; None if nothing remains."""
    x, y, width, height = box
    if width < 0 or height < 0:
        data.note("box-flipped", where)
        x, y, width, height = x + min(width, 0), y + min(height, 0), abs(width), abs(height)
    x1, x2 = max(x, 0.0), min(x + width, float(image["width"]))
    y1, y2 = max(y, 0.0), min(y + height, float(image["height"]))
    if x2 <= x1 or y2 <= y1:
        data.note("box-unusable", f"{where}: {list(box)}")
        return None
    # Coordinates counted from 1 are common: one pixel outside is not reported.
    if x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1:
        data.note("box-outside", where)
    return [x1, y1, x2 - x1, y2 - y1]


def _first_problem(data: OwnData, *about: str) -> str:
    for kind, examples in data.findings.items():
        if kind.startswith(about) and FINDINGS[kind][1] == "skipped":
            return f"{FINDINGS[kind][0]}: {len(examples)}, such as {examples[0]}"
    return "there is none in the file"
