"""Annotations in COCO's json format: readers, and a table of how each reader treats faults.

`detclip2.data.io.coco_parser` finds all faults of a file. `POLICIES` defines what a fault leads to:
evaluations refuse the file (`read_coco_json`), training skips the entry and counts it
(`count_problems`), and fine-tuning fixes or reports it (`detclip2.finetuning.coco_check`).
"""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager

from detclip2.data.io.coco_parser import KEYS, Content, Entry, ParsedCoco, parse_coco
from detclip2.data.io.coco_values import four_finite_numbers, scaled
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError, shown
from detclip2.utils.json_text import parse_json
from detclip2.utils.paths import FolderOfFiles

logger = logging.getLogger(__name__)


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
    "image-listed-twice": Policy("", "image-listed-twice", "image-listed-twice"),
    "size-malformed": Policy("", "size-malformed", "size-malformed"),
    "list-malformed": Policy("refuse", "record-malformed", "refuse"),
    "categories-id-twice": Policy("refuse", "category-duplicate", "id-twice"),
    "annotations-id-twice": Policy("", "annotation-duplicate", "annotation-id-twice"),
    "annotation-repeated": Policy("", "annotation-repeated", "annotation-repeated"),
    "flag-malformed": Policy("refuse", "record-malformed", "refuse"),
    "image-unknown": Policy("", "image-unknown", "image-unknown"),
    "category-unknown": Policy("", "category-unknown", "category-unknown"),
    "box-malformed": Policy("refuse", "", ""),
    "box-fraction": Policy("", "box-fraction", "box-fraction"),
    "box-speck": Policy("", "box-invalid", "box-speck"),
}
"""Fault -> its policy. A second annotation with the id of another is kept, as ids of annotations
are not used, unless it is the same in all: every reader skips such a repeat. Files that are listed
twice are one image with the annotations of both for every reader."""


def read_coco_json(path: str | os.PathLike[str]) -> Content:
    """The content of a json in COCO's format, which must not have faults that evaluations refuse.

    Values are read as by `parse_coco`. Exact repeats of an annotation are skipped, images with the
    same file are one, and boxes are in pixels; a warning gives their numbers.

    Raises:
        UserError: the file cannot be read, an entry lacks a key, an id of an image or a category is
            not unique, ids are of two types, a box is not four finite numbers, or there are no
            images.
    """
    return checked_coco(os.fspath(path), read_json(os.fspath(path), KEYS))


def checked_coco(path: str, content: Content) -> Content:
    """`read_coco_json` of a file with this content, which is changed in place."""
    parsed = parse_coco(path, content, KEYS)
    for problem in parsed.problems:
        if POLICIES[problem.fault].evaluation == "refuse":
            raise UserError(f"{path}: {problem.sentence}")
    if not content["images"]:
        raise UserError(f"{path}: there are no images in this file to evaluate on or choose from")
    for part, found in (("images", parsed.images), ("categories", parsed.categories)):
        texts = [identity for identity in found if isinstance(identity, str)]
        if 0 < len(texts) < len(found):
            raise UserError(
                f"{path}: ids of {part!r} are numbers and texts, such as {shown(texts[0])}, which "
                "evaluations cannot order; number all of them"
            )
    to_pixels(parsed)
    repeats = {id(p.entry) for p in parsed.problems if p.fault == "annotation-repeated"}
    if repeats:
        logger.warning("%s: %d repeats of annotations are skipped", path, len(repeats))
        content["annotations"] = [a for a in content["annotations"] if id(a) not in repeats]
    if parsed.joined:
        logger.warning("%s: %d images are listed twice; made one", path, len(parsed.joined))
        content["images"] = list(parsed.images.values())
    return content


def to_pixels(parsed: ParsedCoco) -> None:
    """Scale boxes that are fractions of their images, by the sizes that the file states.

    Raises:
        UserError: the size of an image is not stated.
    """
    if not parsed.in_fractions:
        return
    for annotation in parsed.annotations:
        image = parsed.images[annotation["image_id"]]
        if not image.keys() >= {"width", "height"}:
            raise UserError(
                f"{parsed.path}: boxes are fractions of the image, but image "
                f"{shown(image['id'])} has no width and height"
            )
        name = f"annotation {shown(annotation.get('id'))}"
        if box := four_finite_numbers(annotation.get("bbox")):
            in_pixels = scaled(box, image["width"], image["height"])
            annotation.update(bbox=list(in_pixels), area=in_pixels[2] * in_pixels[3])
            sentence = f"{name} has the bbox {list(box)} in fractions of the image"
            parsed.add("box-fraction", "annotations", annotation, sentence)
        annotation.pop("segmentation", None)  # of an unknown unit
    parsed.in_fractions = False
    logger.warning("%s: boxes are fractions of their images and read as such", parsed.path)


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

    Raises:
        UserError: a ``file_name`` leads out of its folder.
    """
    folders = _Folders()
    return {
        identity: {
            "file_name": folders[root_of(image)].path(str(image["file_name"])),
            **{key: image[key] for key in ("height", "width") if key in image},
            "image_id": image["id"],
            **new(image),
        }
        for identity, image in parsed.images.items()
    }


class _Folders(dict[str, FolderOfFiles]):
    """Root -> its `FolderOfFiles`."""

    def __missing__(self, root: str) -> FolderOfFiles:
        return self.setdefault(root, FolderOfFiles(root))


def read_json(path: str, keys: Iterable[str] = ()) -> Any:
    """The content of a json file, an object that has `keys`; a byte order mark is allowed.

    Raises:
        UserError: the file cannot be read, is not json in UTF-8, or lacks a key.
    """
    try:
        with PathManager.open(path, "rb") as file:
            content = parse_json(file.read())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not json in UTF-8: {error}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} has no key {missing[0]!r}; expected a json with {list(keys)}")
    return content
