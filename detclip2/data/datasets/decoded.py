"""Records whose images are decoded once and kept in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detclip2.data.io.lines import LazyRecords
from detclip2.data.mappers.records import read_record_image


class DecodedImages(LazyRecords[dict[str, Any]]):
    """Records with their images, each read once in a process: for small sets on few cores.

    An image of 480 x 360 pixels takes half a megabyte. Worker processes would each keep their own,
    so the source should have ``num_workers=0``.

    Args:
        records: dataset records with ``file_name``.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.records = records
        self._images: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.records)

    def _record(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        name = record["file_name"]
        if name not in self._images:
            self._images[name] = read_record_image(record)
        return {**record, "image": self._images[name]}
