"""A text file as a sequence of lines, read one at a time: millions of records, no memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detclip2.utils.errors import UserError


class LineFile(Sequence[bytes]):
    """The lines of a local file that are not blank, by number, without their line ends.

    Each access opens the file: that costs microseconds beside the reading of an image, and nothing
    is shared between worker processes.

    Args:
        path: the file.

    Raises:
        UserError: if it cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        starts, lengths, position = [], [], 0
        try:
            with open(self.path, "rb") as file:
                for line in file:
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

    def __getitem__(self, index):
        """The bytes of one line, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        with open(self.path, "rb") as file:
            file.seek(int(self._starts[index]))
            return file.read(int(self._lengths[index])).rstrip(b"\r\n")
