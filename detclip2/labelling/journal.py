"""The journal of a run: a line of json for each image that is done, from which all else is written.

A line is appended as soon as its image is done, and is never changed. A process that is killed
leaves at most one line incomplete, which the next one removes; so no image is lost, and none is
done twice. Each part has a journal of its own, which it locks.
"""

import errno
import os
import re
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detclip2.labelling.part import Part
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes
from detclip2.utils.json_text import parse_json

try:
    import fcntl
except ImportError:  # Windows: parts are not protected from a second process there
    fcntl = None  # type: ignore[assignment]

FOLDER = "journal"
SECONDS_BETWEEN_SYNCS = 1.0
_LINE = re.compile(rb'\{"image": (\d+), ("skipped")?')
_END = b"}\n"


class Journal:
    """The journal of a part, open for appending.

    Args:
        path: the file; it is made, or its incomplete last line removed.

    Raises:
        UserError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        if not _lock(self._file):
            os.close(self._file)
            raise UserError(f"{path}: another process writes this journal: is this part running?")
        self._size = _scan(path).end
        os.ftruncate(self._file, self._size)
        self._synced = time.monotonic()

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append the entry of an image; see `entry`.

        Raises:
            UserError: it cannot be written. The journal has all entries before it.
        """
        self.add_line(line_of(entry))

    def add_line(self, line: bytes) -> None:
        """Append an entry that is a line already, of `line_of`; as `add`."""
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)  # needs no space
            raise UserError(
                f"{self.path}: nothing more can be written ({error.strerror}); what is in it is "
                "whole: make room and repeat the command to continue"
            ) from None
        self._size += len(line)
        if time.monotonic() - self._synced > SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Force the entries to the disk.

        Raises:
            UserError: the disk reports an error.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None
        self._synced = time.monotonic()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)  # and unlocks it


class Journals:
    """All journals of a run, for reading.

    Args:
        output: the folder of the run.
        total: number of its images.
    """

    def __init__(self, output: Path, total: int) -> None:
        self.folder = output / FOLDER
        self.total = total

    def paths(self) -> list[Path]:
        """The journals, in the order of their names."""
        return sorted(self.folder.glob("*.jsonl"))

    def check_free(self, part: Part) -> None:
        """Check that no other process is at work on images of a part.

        Raises:
            UserError: one is.
        """
        for path in self.paths():
            other = Part.of_journal(path.name)
            if other is None or other.shares_images_with(part):
                with path.open("r+b") as file:
                    free = _lock(file.fileno())
                if not free:
                    raise UserError(
                        f"{path}: another process is at work on the same images; wait for it, or "
                        "stop it first"
                    )

    def done(self, retry_skipped: bool = False) -> np.ndarray:
        """(total,) bool: whether each image is done.

        Args:
            retry_skipped: count what was skipped as not done.
        """
        done = np.zeros(self.total, dtype=bool)
        for path in self.paths():
            scan = _scan(path)
            done[scan.images[~scan.skipped] if retry_skipped else scan.images] = True
        return done

    def entries(self) -> Iterator[dict[str, Any]]:
        """The entries, by the numbers of their images; the last one of each image counts."""
        paths = self.paths()
        journal = np.full(self.total, -1, dtype=np.int32)
        offset = np.zeros(self.total, dtype=np.int64)
        for number, path in enumerate(paths):
            scan = _scan(path)
            better = np.ones(len(scan.images), dtype=bool)
            # Of an image that was skipped and done again, what was found counts.
            better[scan.skipped] = journal[scan.images[scan.skipped]] < 0
            journal[scan.images[better]] = number
            offset[scan.images[better]] = scan.offsets[better]
        files = [path.open("rb") for path in paths]
        try:
            for image in (journal >= 0).nonzero()[0].tolist():
                file = files[journal[image]]
                file.seek(offset[image])
                yield parse_json(file.readline())
        finally:
            for file in files:
                file.close()


def line_of(entry: Mapping[str, Any]) -> bytes:
    """The line of an entry.

    Args:
        entry: ``image``, the number, comes first, and ``skipped``, if there is one, second.
    """
    return json_bytes(entry) + b"\n"


class _Scan(NamedTuple):
    """The complete lines of a journal."""

    images: np.ndarray
    """(n,) int64, the numbers of the images."""
    offsets: np.ndarray
    """(n,) int64, the beginnings of the lines, bytes."""
    skipped: np.ndarray
    """(n,) bool."""
    end: int
    """Where the first incomplete or damaged line begins, bytes, or the size of the file."""


def _scan(path: Path) -> _Scan:
    """Find the lines of a journal, without parsing what is in them."""
    images, offsets, skipped, end = array("q"), array("q"), array("b"), 0
    with path.open("rb") as file:
        for line in file:
            found = _LINE.match(line)
            if found is None or not line.endswith(_END):
                break
            images.append(int(found[1]))
            offsets.append(end)
            skipped.append(found[2] is not None)
            end += len(line)
    return _Scan(
        np.array(images, dtype=np.int64),
        np.array(offsets, dtype=np.int64),
        np.array(skipped, dtype=bool),
        end,
    )


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; whether no other process has.

    Some shared file systems have no locks; there, files are not protected.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
    return True
