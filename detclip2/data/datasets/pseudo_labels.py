"""Image-text pairs with boxes that a model has drawn, for training on them as on grounding data."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detclip2.data.datasets.grounding import OdvgFile
from detclip2.utils.errors import UserError
from detclip2.utils.files import whole_file


class PseudoLabelled(Sequence[dict[str, Any]]):
    """Grounding records: the pictures of `records`, and the captions and boxes of an ODVG file.

    For pictures that are drawn on the fly; where they are files, OdvgFile alone reads the labels.

    Args:
        records: image-text pairs, of which the first ones have been labelled.
        jsonl_file: what scripts/pseudo_label.py wrote for them, line by line.

    Raises:
        UserError: the file cannot be read, or has more lines than there are records.
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

    def __getitem__(self, index):
        """One record, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
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
        file_name: of the picture.
        size: its height and width, px.
        caption: the text.
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
    """Write a file that is whole or not there; how many boxes it has."""
    boxes = 0
    with whole_file(path) as file:
        for line in lines:
            boxes += len(line["grounding"]["regions"])
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
    return boxes
