"""What a person corrected, back as data to train on, where what nobody looked at is unknown.

Tools return boxes, but not what was looked for. In an image that a person has reviewed, a name is

- negative, if the detector had found it and the person has removed all its boxes;
- positive, if it has a box, but perhaps not at every instance, unless the person was asked for all;
- negative or complete, if the person was asked to find all of it (``complete``);
- unknown, else: neither positive nor background, in no loss (docs/finetune.md).

Images that nobody has reviewed are not in the result. A polygon or an RLE counts by the box around
it. A crowd is no instance, and what cannot be read may be one: neither makes its name negative.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from detclip2.data.io.coco_json import read_json
from detclip2.data.io.coco_parser import file_of, parse_coco
from detclip2.data.io.coco_values import edge_of, flag_of, four_finite_numbers, number_of
from detclip2.data.io.masks import box_of_mask
from detclip2.labelling.detector import Entry
from detclip2.utils.errors import UserError, shown
from detclip2.utils.json_text import parse_json

SAME_BOX = 1.0
"""Boxes whose coordinates differ by less, px, are the same: tools round them."""
_COCO = {"images": ("id",), "annotations": ("image_id", "category_id"),
         "categories": ("id", "name")}  # fmt: skip


@dataclass
class Corrected:
    """An image as it comes back from a tool."""

    file_name: str
    boxes: list[tuple[str, list[float]]]
    """Label and box XYWH px of each object."""
    reviewed: bool | None
    """Whether a person has looked at it; None: the tool does not say."""
    size: tuple[int, int] | None = None
    """Width and height, px, if the tool gives them."""
    crowds: list[tuple[str, list[float]]] = field(default_factory=list)
    """Label and box XYWH px of each group of objects (COCO's ``iscrowd``)."""
    unread: set[str] = field(default_factory=set)
    """Labels of objects without a box that can be read."""

    @property
    def incomplete(self) -> set[str]:
        """Labels that may have objects besides those with boxes."""
        return self.unread | {label for label, _ in self.crowds}


@dataclass
class Corrections:
    """Images as they come back from a tool."""

    images: list[Corrected] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """What is not read, and how often."""


def read_export(path: Path) -> Corrections:
    """Read the export of a tool: COCO's json (CVAT and others), or Label Studio's json.

    Raises:
        UserError: it cannot be read, or has another form.
    """
    try:
        first = path.open("rb").read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return _read_label_studio(path) if first == b"[" else _read_coco(path)


def _read_coco(path: Path) -> Corrections:
    parsed = parse_coco(path, read_json(os.fspath(path), _COCO), _COCO)
    found = Corrections()
    found.unread.update(problem.fault for problem in parsed.problems)
    images = {}
    for key, listed in parsed.images.items():
        width, height = edge_of(listed.get("width")), edge_of(listed.get("height"))
        size = (width, height) if width and height else None
        images[key] = Corrected(file_of(listed), [], None, size)
    for one in parsed.annotations:
        image, name = images[one["image_id"]], parsed.categories[one["category_id"]].get("name", "")
        box: tuple[float, ...] | None = four_finite_numbers(one.get("bbox"))
        if box is None and image.size:
            box = box_of_mask(one.get("segmentation"), image.size[::-1])
        if box is None:
            found.unread["annotations without a box"] += 1
            image.unread.add(name)
        else:
            is_crowd = flag_of(one.get("iscrowd")) is not False
            (image.crowds if is_crowd else image.boxes).append((name, list(box)))
    found.images += images.values()
    return found


def _read_label_studio(path: Path) -> Corrections:
    """Read Label Studio's json: an image is reviewed if its task has a submitted annotation."""
    found = Corrections()
    try:
        tasks = parse_json(path.read_bytes())
        for task in tasks:
            data = task["data"]
            name = data.get("file_name") or str(data["image"]).rpartition("?d=")[2]
            submitted = [
                one for one in task.get("annotations") or () if not one.get("was_cancelled")
            ]
            image = Corrected(name, [], bool(submitted))
            for region in submitted[-1]["result"] if submitted else ():
                _add_region(found, image, region)
            found.images.append(image)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path}: this is no json of Label Studio ({error!r}); export it as JSON, not JSON-MIN"
        ) from None
    return found


def _add_region(found: Corrections, image: Corrected, region: Any) -> None:
    """Add a region, in percent of the image, by the box around it."""
    kind, value = str(region.get("type")), region.get("value") or {}  # relations have no value
    labels = value.get(kind, ()) if kind.endswith("labels") else ()  # not of choices and texts
    if kind not in _CORNERS:
        found.unread[f"regions of type {kind}"] += 1
        image.unread.update(labels)
        return
    width, height = edge_of(region["original_width"]), edge_of(region["original_height"])
    corners = _CORNERS[kind](value, width, height) if width and height else []
    if not (width and height and corners):
        found.unread["regions without numbers"] += 1
        image.unread.update(labels)
        return
    image.size = width, height
    (x1, x2), (y1, y2) = ((min(side), max(side)) for side in zip(*corners, strict=True))
    for label in labels:
        image.boxes.append((label, [x1, y1, x2 - x1, y2 - y1]))


def _of_rectangle(value: Any, width: float, height: float) -> list[tuple[float, float]]:
    """The corners, px, of a rectangle in percent that may be turned; none without numbers."""
    numbers = four_finite_numbers([value[key] for key in ("x", "y", "width", "height")])
    if numbers is None:
        return []
    x, y, w, h = (n * side / 100 for n, side in zip(numbers, (width, height) * 2, strict=True))
    turn = math.radians(number_of(value.get("rotation")) or 0.0)
    return [
        (x + i * w * math.cos(turn) - j * h * math.sin(turn),
         y + i * w * math.sin(turn) + j * h * math.cos(turn))
        for i in (0, 1) for j in (0, 1)
    ]  # fmt: skip


def _of_polygon(value: Any, width: float, height: float) -> list[tuple[float, float]]:
    """The points of a polygon in percent, in px; none without numbers."""
    points = [four_finite_numbers([x, y, x, y]) for x, y in value["points"]]
    return [(p[0] * width / 100, p[1] * height / 100) for p in points if p] if all(points) else []


_CORNERS = {"rectanglelabels": _of_rectangle, "polygonlabels": _of_polygon}
"""Type of a region -> its corners, px."""


@dataclass
class Summary:
    """What became of the images of an export."""

    reviewed: int = 0
    not_reviewed: int = 0
    """Images that are dropped."""
    boxes: int = 0
    removed: int = 0
    """Pairs of an image and a name that the detector had found and the person has removed."""
    renamed: int = 0
    """Images that the tool calls otherwise than the run does."""


def to_training(
    corrections: Corrections,
    labels: Sequence[str],
    entries: Iterable[Entry],
    reviewed: Collection[str] | None = None,
    complete: Collection[str] = (),
) -> tuple[dict[str, Any], Summary]:
    """COCO's json for `detclip2 finetune`, with what is known of each name in each image.

    Args:
        corrections: of `read_export`.
        labels: C labels of the run.
        entries: of the run's journals.
        reviewed: file names of the images that were reviewed; None: those of which the tool says
            so, and else those in which something was changed.
        complete: labels that the person was asked to find all of, in the reviewed images.

    Raises:
        UserError: a complete label is in neither the run nor the export; no image was reviewed.
    """
    images = corrections.images
    names = dict.fromkeys([*labels, *(label for one in images for label, _ in one.boxes)])
    names |= dict.fromkeys(sorted(chain(*(one.incomplete for one in images))))
    ids = {name: i for i, name in enumerate(names, 1)}
    if unknown := [name for name in complete if name not in ids]:
        raise UserError(f"{unknown[0]!r} is no label of the run, nor of the corrected file")
    before, own_name = _of_run(entries, corrections.images)
    summary = Summary()
    content: dict[str, Any] = {"images": [], "annotations": []}
    for one in corrections.images:
        name = own_name.get(one.file_name, one.file_name)
        summary.renamed += name != one.file_name
        was = [(labels[c], box) for c, box in _boxes(before[name])] if name in before else []
        if not _is_reviewed(one, name, was, reviewed):
            summary.not_reviewed += 1
            continue
        boxed = {label for label, _ in one.boxes}
        removed = {label for label, _ in was} - boxed - one.incomplete
        summary.reviewed += 1
        summary.removed += len(removed)
        summary.boxes += len(one.boxes)
        number = len(content["images"]) + 1
        image = {"id": number, "file_name": name}
        size = one.size or (name in before and (before[name]["width"], before[name]["height"]))
        if size:
            image.update(width=size[0], height=size[1])
        negative = (removed | set(complete)) - boxed - one.incomplete
        partial = (boxed - set(complete)) | one.incomplete
        image["neg_category_ids"] = sorted(ids[label] for label in negative)
        image["not_exhaustive_category_ids"] = sorted(ids[label] for label in partial)
        content["images"].append(image)
        objects = [(*pair, 0) for pair in one.boxes] + [(*pair, 1) for pair in one.crowds]
        for label, box, is_crowd in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": ids[label],
                    "bbox": [round(value, 3) for value in box],
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": is_crowd,
                }
            )
    if not summary.reviewed:
        raise UserError(
            f"none of the {len(corrections.images)} images was reviewed, as far as the file says, "
            "or changed: name the reviewed ones by --reviewed"
        )
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    used = {i for one in content["images"] for name in lists for i in one[name]}
    used |= {one["category_id"] for one in content["annotations"]}
    content["categories"] = [{"id": i, "name": name} for name, i in ids.items() if i in used]
    return content, summary


def _of_run(
    entries: Iterable[Entry], images: Iterable[Corrected]
) -> tuple[dict[str, Entry], dict[str, str]]:
    """The run's entries of the images, and the run's name of each image that a tool has renamed.

    A name that the run does not have is that of the only image with the same last part.
    """
    wanted = {one.file_name for one in images}
    bases = {_base(name) for name in wanted}
    found: dict[str, Entry] = {}
    of_base: dict[str, list[str]] = {}
    for entry in entries:
        name = entry["file_name"]
        if "skipped" in entry or (name not in wanted and _base(name) not in bases):
            continue
        found[name] = entry
        of_base.setdefault(_base(name), []).append(name)
    own = {}
    for name in wanted - found.keys():
        if len(same := of_base.get(_base(name), [])) == 1:
            own[name] = same[0]
    return found, own


def _is_reviewed(
    one: Corrected,
    name: str,
    was: list[tuple[str, list[float]]],
    reviewed: Collection[str] | None,
) -> bool:
    if reviewed is not None:
        return one.file_name in reviewed or name in reviewed
    return _differ(was, one.boxes) if one.reviewed is None else one.reviewed


def _differ(before: list[tuple[str, list[float]]], after: list[tuple[str, list[float]]]) -> bool:
    """Whether labels differ, or a box by more than `SAME_BOX`."""
    if Counter(label for label, _ in before) != Counter(label for label, _ in after):
        return True
    left = list(after)
    for label, box in before:
        same = next((o for o in left if o[0] == label and _equal(o[1], box)), None)
        if same is None:
            return True
        left.remove(same)
    return False


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool(np.abs(np.subtract(one, other)).max() <= SAME_BOX)


def _boxes(entry: Entry) -> Iterator[tuple[int, list[float]]]:
    for (x1, y1, x2, y2), label in zip(entry["boxes"], entry["classes"], strict=True):
        yield label, [x1, y1, x2 - x1, y2 - y1]


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def read_reviewed(path: Path) -> set[str]:
    """File names of reviewed images: one a line, or a json list of them.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig", "surrogateescape")
        if text.lstrip().startswith("["):
            return set(map(str, json.loads(text)))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this list cannot be read: {shown(error)}") from None
    return {line.strip() for line in text.splitlines() if line.strip()}
