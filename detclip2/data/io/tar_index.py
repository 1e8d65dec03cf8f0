"""Where the image-text pairs of a tar are, so that any one of them is read by itself.

An index is made from the headers of the tar, and kept in a file. It does not import torch.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from detclip2.data.io.tar import BLOCK, MAX_FILE_BYTES, is_compressed
from detclip2.data.io.tar_pairs import pair_ranges
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, write_whole

_VERSION = 1
_MAX_BLOCKS = 2 * MAX_FILE_BYTES // BLOCK
"""Of a run, which has one image; a file of an index comes from anywhere too."""
_MAX_TAR_BYTES = BLOCK * 2**32  # numbers of blocks are uint32


@dataclass(frozen=True)
class PairIndex:
    """The N pairs of a tar, in S runs of members that follow each other: 12 bytes a pair.

    The members of a pair are one run, unless the tar is not sorted by name.
    """

    runs: np.ndarray
    """(S, 2) uint32: the first block of each run, and its number of blocks."""
    ends: np.ndarray
    """(N,) uint32: the runs of pair n end before this one, and begin at the end of pair n - 1."""
    skipped: dict[str, tuple[int, str]]
    """What belongs to no pair: kind -> how many, and a message about the first."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def nbytes(self) -> int:
        """Its size in memory, without messages."""
        return self.runs.nbytes + self.ends.nbytes

    def read(self, path: str, number: int) -> bytes:
        """The members of a pair with their headers: for a sorted tar by one read.

        Args:
            path: the tar.
            number: 0 to N - 1.

        Raises:
            OSError: it cannot be read.
            EOFError: it ends before the pair does.
        """
        first = int(self.ends[number - 1]) if number else 0
        runs = self.runs[first : int(self.ends[number])].astype(np.int64) * BLOCK
        parts = []
        # Opened each time: it takes microseconds, and workers share no position and no limit of
        # open files.
        with open(path, "rb", buffering=0) as file:
            for begin, size in runs.tolist():
                file.seek(begin)
                content = file.read(size)
                if len(content) <= size - BLOCK:
                    raise EOFError("the tar has been cut since its index was made")
                parts.append(content.ljust(size, b"\0"))  # padding may be cut
        return parts[0] if len(parts) == 1 else b"".join(parts)


def pair_index(path: str) -> PairIndex:
    """The index of a tar, from its file, or made anew and kept there.

    The file is ``PATH.index``, or in the user's cache if that folder cannot be written to. It is
    made anew when the size or the time of the tar has changed.

    Args:
        path: the tar. Damage of it is in `PairIndex.skipped`.

    Raises:
        OSError: the tar cannot be read.
        UserError: it is compressed, or has more than 2 TiB.
    """
    status = os.stat(path)
    if status.st_size > _MAX_TAR_BYTES:
        raise UserError(f"{path} has more than 2 TiB: split it into smaller tars")
    stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns], np.int64)
    for file in _files(path):
        if (found := _load(file, stamp)) is not None:
            return found
    if is_compressed(path):
        raise UserError(
            f"{path} is compressed, so that its pairs cannot be read one by one: unpack it, or "
            "name ImageTextStream in the config, which reads shards in order"
        )
    made = _make(path)
    for file in _files(path):
        try:
            write_whole(file, lambda stream: _save(stream, stamp, made))
        except (OSError, UserError):
            continue  # not writable, or full: the index is of use without a file
        break
    return made


def _files(path: str) -> Iterator[Path]:
    """Where the index of a tar may be, best first."""
    yield Path(f"{path}.index")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()
    yield Path(cache, "detclip2", "tars", f"{name}.index")


def _make(path: str) -> PairIndex:
    runs, ends = array("I"), array("I")
    skipped: dict[str, tuple[int, str]] = {}

    def count(kind: str, message: str) -> None:
        number, first = skipped.get(kind, (0, message))
        skipped[kind] = (number + 1, first)

    for members in pair_ranges(path, count):
        for begin, end in _joined(members):
            runs.extend((begin // BLOCK, (end - begin) // BLOCK))
        ends.append(len(runs) // 2)
    return PairIndex(np.array(runs, np.uint32).reshape(-1, 2), np.array(ends, np.uint32), skipped)


def _joined(members: list[range]) -> list[tuple[int, int]]:
    """Begin and end of the runs of members that follow each other, in the order of the tar."""
    runs: list[tuple[int, int]] = []
    for member in sorted(members, key=lambda member: member.start):
        if runs and runs[-1][1] == member.start:
            runs[-1] = (runs[-1][0], member.stop)
        else:
            runs.append((member.start, member.stop))
    return runs


def _save(file: IO[bytes], stamp: np.ndarray, index: PairIndex) -> None:
    skipped = np.frombuffer(json_bytes(index.skipped), np.uint8)
    for part in (stamp, index.runs, index.ends, skipped):
        np.lib.format.write_array(file, part, allow_pickle=False)


def _load(path: Path, stamp: np.ndarray) -> PairIndex | None:
    """The index of a file; None if there is none of this tar as it is, or it is damaged."""
    try:
        with path.open("rb") as file:
            if not np.array_equal(_read_array(file), stamp):
                return None
            runs, ends, text = (_read_array(file) for _ in range(3))
        index = PairIndex(runs, ends, json.loads(text.tobytes()))
        is_whole = (
            runs.dtype == ends.dtype == np.uint32
            and (runs.shape, ends.ndim) == ((len(runs), 2), 1)
            and int(runs[:, 1].max(initial=0)) <= _MAX_BLOCKS
            and bool((np.diff(ends.astype(np.int64), prepend=0, append=len(runs)) >= 0).all())
            and all(isinstance(number, int) for number, _ in index.skipped.values())
        )
    except Exception:  # of numpy's reader, whatever the file is
        return None
    return index if is_whole else None


def _read_array(file: IO[bytes]) -> Any:
    return np.lib.format.read_array(file, allow_pickle=False)
