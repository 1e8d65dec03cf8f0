"""Sequences that read each item on access, for millions of records in little memory."""

import codecs
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from detclip2.data.sample import SkipSample
from detclip2.utils.errors import UserError
from detclip2.utils.json_text import parse_json
from detclip2.utils.paths import path_in

Item = TypeVar("Item")


class LazyRecords(Sequence[Item]):
    """A sequence whose subclass gives the length and the single items."""

    @abstractmethod
    def _record(self, index: int) -> Item:
        """The item of an index, 0 <= index < length."""

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index):
        """One item, or a list of items for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._record(range(len(self))[index])


class LineFile(LazyRecords[bytes]):
    """The lines of a local file by number, without blank lines, line ends and byte order mark.

    Each access opens the file, so worker processes share nothing; it takes microseconds, far less
    than reading an image.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        starts, lengths, position = [], [], 0
        try:
            with open(self.path, "rb") as file:
                for line in file:
                    if position == 0 and line.startswith(codecs.BOM_UTF8):
                        position, line = len(codecs.BOM_UTF8), line.removeprefix(codecs.BOM_UTF8)
                    if line.strip():
                        starts.append(position)
                        lengths.append(len(line))
                    position += len(line)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        self._starts = np.array(starts, dtype=np.int64)
        self._lengths = np.array(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def _record(self, index: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(int(self._starts[index]))
            return file.read(int(self._lengths[index])).rstrip(b"\r\n")


class JsonLines(LazyRecords[dict[str, Any]]):
    """Records of a file with one json object a line.

    Args:
        jsonl_file: the file.
        image_root: the folder that its images are relative to.

    Raises:
        UserError: the file cannot be read. Access to a line that is not in the format raises
            SkipSample.
    """

    def __init__(self, jsonl_file: str, image_root: str):
        self.lines = LineFile(jsonl_file)
        self.image_root = image_root

    def __len__(self) -> int:
        return len(self.lines)

    @abstractmethod
    def _parse(self, line: Any, index: int) -> dict[str, Any]:
        """The record of a line; raises ValueError, KeyError, ... if it is not in the format."""

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._parse(parse_json(self.lines[index]), index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            where = f"{self.lines.path}, record {index}"
            raise SkipSample("record-malformed", f"{where}: {error!r}") from error

    def _path(self, file_name: str) -> str:
        return path_in(self.image_root, file_name)
