"""Names of the files that a run writes for each image: as the images', and inside their folder."""

import hashlib
from array import array
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

_PARTS_TO_DROP = ("", ".", "..", "/")


class FileNames:
    """Paths of files with the names of images and another suffix, one for each image.

    Where images differ in their suffix alone (``a.jpg``, ``a.png``), all but the first have their
    number in it: ``a.txt`` and ``a.12.txt``.

    Args:
        names: of all images, in order; they are gone through once and not kept.
    """

    def __init__(self, names: Iterable[str]) -> None:
        # 8 bytes an image.
        hashes = array("Q", (_hash(self.path_of(name, "")) for name in names))
        numbers = np.frombuffer(hashes, dtype=np.uint64) if hashes else np.zeros(0, np.uint64)
        kept, counts = np.unique(numbers, return_counts=True)
        self._shared = set(kept[counts > 1].tolist())
        self._taken: set[int] = set()
        self.renamed: list[str] = []
        """The names of images whose files have their number in them, so far."""

    def next(self, name: str, number: int, suffix: str) -> PurePosixPath:
        """The path of the file of the next image, relative to the folder of them all."""
        path = self.path_of(name, suffix)
        identity = _hash(self.path_of(name, ""))
        if identity not in self._shared:
            return path
        if identity not in self._taken:
            self._taken.add(identity)
            return path
        self.renamed.append(name)
        return self.path_of(name, f".{number}{suffix}")

    @staticmethod
    def path_of(name: str, suffix: str) -> PurePosixPath:
        """A name with another suffix, as a path that stays inside the folder it is joined to.

        Of a URL, the host and what follows; ``..`` and roots are dropped.
        """
        url = name.partition("://")[2].partition("?")[0]
        parts = [
            part.replace(":", "_").replace("\0", "_")
            for part in (url or name).replace("\\", "/").split("/")
            if part not in _PARTS_TO_DROP
        ] or ["image"]
        stem, dot, _ = parts[-1].rpartition(".")
        return PurePosixPath(*parts[:-1], f"{stem if dot and stem else parts[-1]}{suffix}")


def _hash(path: PurePosixPath) -> int:
    content = str(path).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
