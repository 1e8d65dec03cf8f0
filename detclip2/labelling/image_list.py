"""The images of a run in a file: millions take little memory, and all parts number them alike."""

import hashlib
import os
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.lines import LazyRecords, LineFile
from detclip2.data.io.url import is_url
from detclip2.evaluation.protocol import file_hash
from detclip2.utils.files import json_bytes, whole_file
from detclip2.utils.json_text import parse_json


class ImageList(LazyRecords[ImageItem]):
    """The images of a file that `write_image_list` wrote, by number.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)

    def __len__(self) -> int:
        return len(self._lines)

    def _record(self, index: int) -> ImageItem:
        return ImageItem(*parse_json(self._lines[index]))


def write_image_list(path: Path, items: Iterable[ImageItem]) -> tuple[int, str]:
    """Write a list of images, each once.

    Images are equal by their path, URL or place in a tar. The file has a json list a line: name,
    path, and for a member of a tar its offset and size.

    Args:
        path: the file; it is written whole or not at all.
        items: the images; their paths become absolute.

    Returns:
        The number of items that repeat an earlier one, and the `file_hash` of the list.

    Raises:
        UserError: the disk is full.
    """
    identities = array("Q")  # 8 bytes an image; two of ten million are equal in 3e-6 of all runs
    with whole_file(path) as file:
        for item in items:
            digest = hashlib.blake2b(os.fsencode(item.identity), digest_size=8).digest()
            identities.append(int.from_bytes(digest, "big"))
            file.write(_line(item))
    numbers = np.frombuffer(identities, dtype=np.uint64) if identities else np.zeros(0, np.uint64)
    _, first = np.unique(numbers, return_index=True)
    repeated = len(numbers) - len(first)
    if repeated:
        lines = LineFile(path)
        with whole_file(path) as file:
            for index in np.sort(first).tolist():
                file.write(lines[index] + b"\n")
    return repeated, file_hash(path)


def _line(item: ImageItem) -> bytes:
    where = item.path if is_url(item.path) else os.path.abspath(item.path)
    member = [item.offset, item.size] if item.offset >= 0 else []
    return json_bytes([item.name, where, *member]) + b"\n"
