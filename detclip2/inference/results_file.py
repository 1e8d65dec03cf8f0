"""One file of the detections in many images and videos: COCO's json or a table."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from detclip2.inference.results import to_coco
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json, write_whole

COLUMNS = ("file_name", "frame", "label", "score", "x1", "y1", "x2", "y2", "track")


class Results:
    """Collects detections as COCO's annotations: what a results file in json holds.

    ``images`` (``id``, ``file_name``, ``width``, ``height``, and ``frame`` for one of a video),
    ``categories`` (``id``, the position in the vocabulary, and ``name``) and ``annotations``, which
    are COCO's results: ``image_id``, ``category_id``, ``bbox`` XYWH px, ``score``, with ``id``,
    ``area`` and ``iscrowd`` besides, ``segmentation`` of detections with masks, and perhaps
    ``track``.

    Args:
        labels: the labels of the vocabulary, in order.
        polygons: see `to_coco`.
    """

    def __init__(self, labels: Sequence[str], polygons: bool = False) -> None:
        self._labels = labels
        self._polygons = polygons
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, name: str | os.PathLike[str], instances: Instances, **more: Any) -> None:
        """Add an image, with the detections in it.

        Args:
            name: of the file.
            instances: of the image.
            **more: further keys of the entry in ``images``: ``frame``, from 0, of a video.
        """
        number = len(self._images) + 1
        height, width = instances.image_size
        image = {"id": number, "file_name": os.fspath(name), "width": width, "height": height}
        self._images.append({**image, **more})
        for row in to_coco(instances, number, polygons=self._polygons):
            area = row["bbox"][2] * row["bbox"][3]
            entry = {"id": len(self._annotations) + 1, "area": area, **row, "iscrowd": 0}
            self._annotations.append(entry)

    def content(self) -> dict[str, Any]:
        """All that was added, as json holds it."""
        categories = [{"id": i, "name": label} for i, label in enumerate(self._labels)]
        return {
            "images": self._images,
            "categories": categories,
            "annotations": self._annotations,
        }


class ResultsFile(Results):
    """Collects detections and writes them to one file, by its suffix.

    - ``.json``: see `Results`.
    - ``.csv``: a line a detection with the columns of `COLUMNS`; boxes are XYXY px.

    Args:
        path: the file, .json or .csv.
        labels: the labels of the vocabulary, in order.
        polygons: see `to_coco`.
    """

    def __init__(self, path: Path, labels: Sequence[str], polygons: bool = False) -> None:
        super().__init__(labels, polygons)
        self.path = path

    def write(self) -> None:
        """Write the file, atomically.

        Raises:
            UserError: it cannot be written.
        """
        try:
            if self.path.suffix == ".json":
                write_json(self.path, self.content(), indent=None)
            else:
                table = self._table().encode("utf-8", "backslashreplace")
                write_whole(self.path, lambda file: file.write(table))
        except OSError as error:
            raise UserError(f"{self.path}: this file cannot be written: {error}") from None

    def _table(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for one in self._annotations:
            image = self._images[one["image_id"] - 1]
            x, y, width, height = one["bbox"]
            box = (f"{value:.2f}" for value in (x, y, x + width, y + height))
            label, score = self._labels[one["category_id"]], f"{one['score']:.4f}"
            name, frame = image["file_name"], image.get("frame", "")
            writer.writerow((name, frame, label, score, *box, one.get("track", "")))
        return text.getvalue()
