"""Annotation files of other tools, written from the entries of a journal, one image at a time.

supervision writes four of these formats too, and is what the tests read them with. It is not used
here because it holds a whole data set, reads every image again, keeps no scores, and rounds: YOLO
to 5 digits, Pascal VOC to pixels.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml

from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.url import is_url
from detclip2.labelling.detector import Entry
from detclip2.labelling.names import FileNames
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, whole_file

Entries = Callable[[], Iterator[Entry]]
"""Begins anew at the first entry; without those that are skipped."""

TASKS_OF_A_FILE = 10_000
"""Label Studio takes files up to 250 MB."""
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Format(ABC):
    """A way to write annotations.

    Args:
        output: the folder of the run.
        labels: C labels.
        origin: what made the detections, in a line.
    """

    summary: str
    """What is written, for the end of a run."""
    has_files_of_images = True
    """Whether there is a file for each image."""

    def __init__(self, output: Path, labels: Sequence[str], origin: str) -> None:
        self.output = output
        self.labels = labels
        self.origin = origin

    def check(self) -> None:  # noqa: B027 (most formats take any label)
        """Check, before anything is detected, that the labels can be written.

        Raises:
            UserError: one cannot.
        """

    @abstractmethod
    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """Write all files, each whole or not at all.

        Args:
            entries: in the order of their images.
            items: all images of the run, by number.
            names: names of the files that are one for each image, if there are such.

        Raises:
            UserError: the disk is full.
        """


class Coco(Format):
    """One ``coco.json``: COCO's annotations with a ``score``; category ids from 1.

    Each image has an empty ``exhaustive_for``: nobody has looked for what was not detected, so
    fine-tuning does not take it for background.
    """

    summary = "coco.json"
    has_files_of_images = False

    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """See `Format`."""
        categories = [{"id": i, "name": label} for i, label in enumerate(self.labels, 1)]
        with whole_file(self.output / "coco.json") as file:
            file.write(b'{"info": ' + json_bytes({"description": self.origin}))
            file.write(b',\n"categories": ' + json_bytes(categories))
            _write_list(file, "images", (self._image(one) for one in entries()))
            _write_list(file, "annotations", self._annotations(entries()))
            file.write(b"}\n")

    @staticmethod
    def _image(one: Entry) -> dict[str, Any]:
        kept = {key: one[key] for key in ("file_name", "width", "height")}
        return {"id": one["image"] + 1, **kept, "exhaustive_for": []}

    @staticmethod
    def _annotations(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
        number = 0
        for one in entries:
            for box, score, label in _detections(one):
                x, y, width, height = _xywh(box)
                number += 1
                yield {
                    "id": number,
                    "image_id": one["image"] + 1,
                    "category_id": label + 1,
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                    "score": score,
                }


class Yolo(Format):
    """``yolo/labels/*.txt``, ``yolo/data.yaml`` with the names, and ``yolo/scores/*.txt``.

    A line has the label's number and the box's centre, width and height, in shares of the image;
    trainers refuse a sixth column, so scores are in files of their own, line by line.
    """

    summary = "yolo/labels, yolo/scores, yolo/data.yaml"

    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """See `Format`."""
        folder = self.output / "yolo"
        for one in entries():
            path = names.next(one["file_name"], one["image"], ".txt")
            lines, scores = [], []
            for box, score, label in _detections(one):
                centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                numbers = (*centre, box[2] - box[0], box[3] - box[1])
                sizes = (one["width"], one["height"]) * 2
                shares = (f"{n / size:.8f}" for n, size in zip(numbers, sizes, strict=True))
                lines.append(" ".join((str(label), *shares)))
                scores.append(str(score))
            _write_text(folder / "labels" / path, lines)
            _write_text(folder / "scores" / path, scores)
        content = {"nc": len(self.labels), "names": dict(enumerate(self.labels))}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=2**30)
        _write_text(folder / "data.yaml", [f"# {self.origin}", text])


class Voc(Format):
    """``voc/*.xml``: Pascal VOC's, whose first pixel is 1, with a ``score`` and parts of pixels."""

    summary = "voc/*.xml"

    def check(self) -> None:
        """See `Format`."""
        for label in self.labels:
            if _NOT_IN_XML.search(label):
                raise UserError(f"--format voc: xml cannot hold the label {label!r}")

    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """See `Format`."""
        for one in entries():
            path = names.next(one["file_name"], one["image"], ".xml")
            root = ElementTree.Element("annotation")
            _add(root, "filename", one["file_name"])
            _add(_add(root, "source"), "database", self.origin)
            size = _add(root, "size")
            for key, value in (("width", one["width"]), ("height", one["height"]), ("depth", 3)):
                _add(size, key, value)
            _add(root, "segmented", 0)
            for box, score, label in _detections(one):
                thing = _add(root, "object")
                _add(thing, "name", self.labels[label])
                for key, value in (("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
                    _add(thing, key, value)
                _add(thing, "score", score)
                place = _add(thing, "bndbox")
                x1, y1, x2, y2 = box
                corners = (x1 + 1, y1 + 1, max(x2, x1 + 1), max(y2, y1 + 1))
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                    _add(place, key, round(value, 3))
            ElementTree.indent(root)
            _write_text(self.output / "voc" / path, [ElementTree.tostring(root, "unicode")])


class LabelMe(Format):
    """``labelme/*.json``: LabelMe's rectangles, with a ``score``; to be put beside the images."""

    summary = "labelme/*.json"
    version = "5.5.0"

    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """See `Format`."""
        for one in entries():
            path = names.next(one["file_name"], one["image"], ".json")
            content = {
                "version": self.version,
                "flags": {},
                "shapes": [
                    {
                        "label": self.labels[label],
                        "points": [box[:2], box[2:]],
                        "group_id": None,
                        "description": "",
                        "shape_type": "rectangle",
                        "flags": {},
                        "score": score,
                    }
                    for box, score, label in _detections(one)
                ],
                "imagePath": one["file_name"].replace("\\", "/").rpartition("/")[2],
                "imageData": None,
                "imageHeight": one["height"],
                "imageWidth": one["width"],
            }
            _write_text(self.output / "labelme" / path, [json_bytes(content, 1).decode()])


class LabelStudio(Format):
    """``labelstudio/tasks-*.json``: Label Studio's tasks with predictions, and its interface.

    Images of files are named for Label Studio's local storage, relative to its document root; those
    of URLs by these.
    """

    summary = "labelstudio/tasks-*.json, labelstudio/interface.xml"
    has_files_of_images = False

    def write(self, entries: Entries, items: Sequence[ImageItem], names: FileNames) -> None:
        """See `Format`."""
        folder = self.output / "labelstudio"
        tasks = entries()
        number = 0
        while (first := next(tasks, None)) is not None:
            number += 1
            with whole_file(folder / f"tasks-{number:04d}.json") as file:
                for i in range(TASKS_OF_A_FILE):
                    file.write(b",\n" if i else b"[\n")
                    file.write(json_bytes(self._task(first, items[first["image"]])))
                    if i == TASKS_OF_A_FILE - 1 or (first := next(tasks, None)) is None:
                        break
                file.write(b"\n]\n")
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name="image", value="$image")
        boxes = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
        for label in self.labels:
            ElementTree.SubElement(boxes, "Label", value=_xml_text(label))
        ElementTree.indent(view)
        _write_text(folder / "interface.xml", [ElementTree.tostring(view, "unicode")])

    def _task(self, one: Entry, item: ImageItem) -> dict[str, Any]:
        name = one["file_name"]
        where = f"/data/local-files/?d={quote(name, errors='surrogateescape')}"
        regions = []
        for number, (box, score, label) in enumerate(_detections(one)):
            x, y, width, height = _xywh(box)
            regions.append(
                {
                    "id": f"{one['image']}-{number}",
                    "from_name": "label",
                    "to_name": "image",
                    "type": "rectanglelabels",
                    "original_width": one["width"],
                    "original_height": one["height"],
                    "image_rotation": 0,
                    "score": score,
                    "value": {
                        "x": 100 * x / one["width"],
                        "y": 100 * y / one["height"],
                        "width": 100 * width / one["width"],
                        "height": 100 * height / one["height"],
                        "rotation": 0,
                        "rectanglelabels": [self.labels[label]],
                    },
                }
            )
        prediction: dict[str, Any] = {"model_version": self.origin, "result": regions}
        if one["scores"]:
            prediction["score"] = sum(one["scores"]) / len(one["scores"])
        image = item.path if is_url(item.path) else where
        return {"data": {"image": image, "file_name": name}, "predictions": [prediction]}


FORMATS: dict[str, type[Format]] = {
    "coco": Coco,
    "yolo": Yolo,
    "voc": Voc,
    "labelme": LabelMe,
    "labelstudio": LabelStudio,
}


def write_formats(
    formats: Iterable[Format], entries: Entries, items: Sequence[ImageItem]
) -> list[str]:
    """Write all formats, and return the names of images whose files have their number in the name.

    Args:
        formats: at least one.
        entries: begins anew with each call; of all images, those that were skipped too.
        items: all images of the run, by number.

    Raises:
        UserError: the disk is full; what is written by then is whole.
    """

    def labelled() -> Iterator[Entry]:
        return (one for one in entries() if "skipped" not in one)

    renamed: dict[str, None] = {}
    for one in formats:
        of_images = labelled() if one.has_files_of_images else iter(())
        names = FileNames(entry["file_name"] for entry in of_images)
        try:
            one.write(labelled, items, names)
        except OSError as error:
            raise UserError(
                f"{error.filename or one.output}: cannot be written: {error.strerror or error}"
            ) from None
        renamed.update(dict.fromkeys(names.renamed))
    return list(renamed)


def _detections(one: Entry) -> Iterator[tuple[list[float], float, int]]:
    """Box, score and label's number of each detection."""
    return zip(one["boxes"], one["scores"], one["classes"], strict=True)


def _xywh(box: Sequence[float]) -> list[float]:
    """A box as corner and size, px, to a thousandth of a pixel."""
    x1, y1, x2, y2 = box
    return [round(number, 3) for number in (x1, y1, x2 - x1, y2 - y1)]


def _write_list(file: IO[bytes], key: str, rows: Iterable[dict[str, Any]]) -> None:
    file.write(b',\n"' + key.encode() + b'": [')
    for number, row in enumerate(rows):
        file.write((b",\n" if number else b"\n") + json_bytes(row))
    file.write(b"]")


def _write_text(path: Path, lines: Sequence[str]) -> None:
    """Write a file whole or not at all.

    It is not forced to the disk, which would take hours for millions: the journal has it all.
    """
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
    aside = path.with_name(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _add(parent: ElementTree.Element, tag: str, value: Any = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    if value is not None:
        child.text = _xml_text(str(value))
    return child


def _xml_text(text: str) -> str:
    """A text with escapes, as of Python, for what xml cannot hold."""
    return _NOT_IN_XML.sub(lambda found: ascii(found[0])[1:-1], text)
