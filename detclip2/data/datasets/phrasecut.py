"""PhraseCut (arXiv 2008.01187) in its authors' layout: phrases of Visual Genome with masks.

``refer_SPLIT.json`` is a list of phrases, each with the objects that it means: ``image_id``,
``phrase``, ``instance_boxes`` (XYWH px), and ``Polygons``, for each object a list of polygons, each
a list of [x, y]. ``image_data_split.json`` lists ``image_id``, ``width`` and ``height``.
"""

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw

from detclip2.data.io.coco_json import read_json
from detclip2.data.io.coco_values import edge_of, four_finite_numbers, id_of
from detclip2.data.io.lines import LazyRecords
from detclip2.data.io.masks import encode_mask
from detclip2.data.sample import SkipSample
from detclip2.data.text.clean import clean_phrase
from detclip2.utils.errors import UserError, shown
from detclip2.utils.paths import path_in


class PhraseCut(LazyRecords[dict[str, Any]]):
    """Grounding records with masks, one for each phrase, which is the whole caption.

    Args:
        folder: has ``refer_SPLIT.json``, ``image_data_split.json`` and ``images/ID.jpg``.
        split: train, val, test or miniv.

    Raises:
        UserError: a file is missing or not in this format. Access to a phrase that is not raises
            SkipSample.
    """

    def __init__(self, folder: str, split: str = "test") -> None:
        self.path = Path(folder) / f"refer_{split}.json"
        self._images = Path(folder) / "images"
        self._tasks = _list_of(self.path)
        self._sizes = _sizes(Path(folder) / "image_data_split.json")
        if not self._tasks:
            raise UserError(f"{self.path}: there is no phrase in this file")

    def __len__(self) -> int:
        return len(self._tasks)

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._parse(self._tasks[index], index)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            message = f"{self.path}, phrase {index}: {error!r}"
            raise SkipSample("record-malformed", message) from error

    def _parse(self, task: Any, index: int) -> dict[str, Any]:
        phrase, image_id = clean_phrase(task["phrase"]), id_of(task["image_id"])
        if not phrase:
            raise ValueError("the phrase is empty")
        height, width = self._sizes[image_id]
        boxes, outlines = task["instance_boxes"], task["Polygons"]
        if len(boxes) != len(outlines) or not boxes:
            raise ValueError(f"{len(boxes)} instance_boxes and {len(outlines)} Polygons")
        spans = [[0, len(phrase)]]
        return {
            "file_name": path_in(self._images, f"{image_id}.jpg"),
            "image_id": image_id,
            "sentence_id": index,
            "height": height,
            "width": width,
            "caption": phrase,
            "mention_spans": [[(0, len(phrase))]],
            "annotations": [
                {
                    "bbox": _box(box),
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "iscrowd": 0,
                    "phrases": [phrase],
                    "tokens_positive": spans,
                    "segmentation": encode_mask(drawn(polygons, (height, width))),
                }
                for box, polygons in zip(boxes, outlines, strict=True)
            ],
        }


def drawn(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask of polygons as PhraseCut's evaluation draws it, (H, W) bool.

    Coordinates are cut to integers, and the line around a polygon belongs to it. Polygons without
    two points are skipped.

    Args:
        polygons: each a list of [x, y], px.
        size: (H, W).
    """
    image = Image.new("1", size[::-1])
    canvas = ImageDraw.Draw(image)
    for polygon in polygons:
        if len(polygon) > 1:
            canvas.polygon([(int(x), int(y)) for x, y in polygon], fill=1, outline=1)
    return np.array(image, dtype=bool)


def _box(value: Any) -> list[float]:
    if (box := four_finite_numbers(value)) is None:
        raise ValueError(f"the box {shown(value)} is not four numbers")
    return list(box)


def _sizes(path: Path) -> dict[Any, tuple[int, int]]:
    """Image id -> (height, width)."""
    sizes = {}
    for entry in _list_of(path):
        height, width = (edge_of(entry.get(key)) for key in ("height", "width"))
        if "image_id" not in entry or height is None or width is None:
            raise UserError(
                f"{path}: {shown(entry)} is not an image with image_id, width and height"
            )
        sizes[id_of(entry["image_id"])] = height, width
    return sizes


def _list_of(path: Path) -> list[dict[str, Any]]:
    content = read_json(str(path))
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"{path}: expected a list of objects, as PhraseCut's files are")
    return content
