"""Records of detection data in a few arrays, instead of millions of Python objects.

A box in a dict takes 400 bytes. Worker processes that are forked share the memory of their
parent until it is written to, and to read an object writes its count of references: after a pass,
each worker would have its own copy of all dicts. Arrays stay shared.
"""

import copy
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

Record = dict[str, Any]

_MAX_CATEGORY = 2**31 - 1
_MAX_NUMBER = 2**53  # up to which a float holds every integer


class PackedRecords(Sequence[Record]):
    """A sequence of Detectron2's records, each of which is made anew when it is asked for.

    A box with its category takes 38 bytes; the other keys of a record take what they do as json.
    Records come back equal: numbers of boxes as floats, tuples as lists, bytes (of RLE) as text.

    Args:
        records: ``annotations`` have ``bbox``, ``bbox_mode``, ``category_id`` and ``iscrowd``.
            Other keys, and boxes and categories that are not what they should be, may be all that
            json can hold.

    Raises:
        TypeError: json cannot hold a value, such as an image.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        boxes, modes, categories, crowds = array("d"), array("b"), array("i"), array("b")
        ends = array("q", [0])

        def pack() -> Iterator[Record]:
            for record in records:
                others = []
                for annotation in record["annotations"]:
                    other = dict(annotation)
                    boxes.extend(other.pop("bbox") if _is_box(other["bbox"]) else [0] * 4)
                    category_id = other["category_id"]
                    is_usual = type(category_id) is int and 0 <= category_id <= _MAX_CATEGORY
                    categories.append(other.pop("category_id") if is_usual else -1)
                    modes.append(int(other.pop("bbox_mode")))
                    crowds.append(int(other.pop("iscrowd")))
                    others.append(other)
                ends.append(len(modes))
                rest = {key: value for key, value in record.items() if key != "annotations"}
                yield {**rest, "annotations": others} if any(others) else rest

        self._rest = _Texts(pack())
        # Copies: the arrays above have room to grow.
        self._boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self._modes, self._crowds = np.array(modes, np.int8), np.array(crowds, np.bool_)
        self._categories = np.array(categories, np.int32)
        self._ends = np.array(ends, np.int64)

    @property
    def num_boxes(self) -> int:
        """Boxes of all records."""
        return len(self._boxes)

    def __len__(self) -> int:
        return len(self._rest)

    def __getitem__(self, index: Any) -> Any:
        """A record, or a list of records for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index = int(index) % len(self)
        record = self._rest[index]
        of_record = slice(self._ends[index], self._ends[index + 1])
        columns = (
            self._boxes[of_record].tolist(),
            map(BoxMode, self._modes[of_record].tolist()),
            self._categories[of_record].tolist(),
            self._crowds[of_record].astype(int).tolist(),
        )
        annotations: list[Record] = [
            {"bbox": box, "bbox_mode": mode, "category_id": category_id, "iscrowd": crowd}
            for box, mode, category_id, crowd in zip(*columns, strict=True)
        ]
        for annotation, other in zip(annotations, record.get("annotations", ()), strict=False):
            annotation.update(other)
        return {**record, "annotations": annotations}

    def changed(self, change: Callable[[Record], Record]) -> "PackedRecords":
        """The same boxes in records whose other keys are changed; boxes are not copied.

        Args:
            change: record -> record. The annotations, if it has any, have only the keys that are
                not packed.
        """
        rest = _Texts(change(self._rest[i]) for i in range(len(self)))
        if rest == self._rest:
            return self
        other = copy.copy(self)
        other._rest = rest
        return other


class _Texts:
    """Records as json in one array of bytes."""

    def __init__(self, records: Iterable[Record]) -> None:
        text, ends = bytearray(), array("q", [0])
        for record in records:
            text += json.dumps(record, separators=(",", ":"), default=_as_json).encode()
            ends.append(len(text))
        self._text = np.frombuffer(bytes(text), np.uint8)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Texts) and np.array_equal(self._text, other._text)

    def __getitem__(self, index: int) -> Record:
        text = self._text[self._ends[index] : self._ends[index + 1]].tobytes()
        record: Record = json.loads(text)
        return record


def packed(records: Iterable[Record]) -> Sequence[Record]:
    """The records as `PackedRecords`; a list where json cannot hold them, such as images."""
    if not isinstance(records, Sequence):
        records = list(records)
    try:
        return PackedRecords(records)
    except TypeError:
        return list(records)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    return all(type(number) in (int, float) and abs(number) <= _MAX_NUMBER for number in box)


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, np.integer | np.floating):
        return value.item()
    raise TypeError(f"json cannot hold {type(value).__name__}")
