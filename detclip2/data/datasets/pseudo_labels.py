"""Pseudo labels: image-text pairs with a model's boxes, as grounding data for training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detclip2.data.datasets.grounding import OdvgFile
from detclip2.data.io.lines import LazyRecords
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, whole_file


class PseudoLabelled(LazyRecords[dict[str, Any]]):
    """Grounding records: the images of `records`, and the captions and boxes of an ODVG file.

    For images that are drawn on the fly; for image files, OdvgFile alone is enough.

    Args:
        records: image-text pairs, of which the first ones are labelled.
        jsonl_file: output of scripts/pseudo_label.py for them, one line for each.

    Raises:
        UserError: the file cannot be read, or has more lines than there are records. Access to a
            line of another image raises it too.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], jsonl_file: str) -> None:
        self.records = records
        self.labels = OdvgFile(jsonl_file, "")
        if len(self.labels) > len(records):
            raise UserError(
                f"{jsonl_file} has labels for {len(self.labels)} records, but there are "
                f"{len(records)}: it was made of another source"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def _record(self, index: int) -> dict[str, Any]:
        record, labels = self.records[index], self.labels[index]
        if labels["file_name"] != record["file_name"]:
            raise UserError(
                f"{self.labels.lines.path}, record {index}: is of {labels['file_name']}, not of "
                f"{record['file_name']}: it was made of another source"
            )
        return {**record, **{key: labels[key] for key in ("caption", "annotations")}}


def odvg_line(
    file_name: str, size: tuple[int, int], caption: str, regions: Iterable[tuple[str, list[float]]]
) -> dict[str, Any]:
    """A grounding line of ODVG.

    Args:
        file_name: file name of the image.
        size: (height, width) of the image, px.
        caption: caption of the image.
        regions: phrases, each with a box, XYXY px.
    """
    return {
        "filename": file_name,
        "height": size[0],
        "width": size[1],
        "grounding": {
            "caption": caption,
            "regions": [{"phrase": phrase, "bbox": box} for phrase, box in regions],
        },
    }


def write_odvg(lines: Iterator[dict[str, Any]], path: Path) -> int:
    """Write a file, complete or not at all, and return its number of boxes."""
    boxes = 0
    with whole_file(path) as file:
        for line in lines:
            boxes += len(line["grounding"]["regions"])
            file.write(json_bytes(line) + b"\n")
    return boxes
