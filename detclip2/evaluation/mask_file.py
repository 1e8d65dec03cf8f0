"""Masks of detections on the disk, as those of a large data set would not fit into memory."""

import struct
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from detclip2.utils.errors import UserError

_HEAD = struct.Struct("<III")  # rows, columns, bytes of the counts
_RANK = 48  # bits of a place below the number of its process


class MaskFile:
    """Masks of all processes, each of which writes a file of its own.

    Args:
        folder: a folder that all processes share; None: the system's, for one process.
        distributed: whether the main process reads the masks of all processes.

    Raises:
        UserError: the file cannot be made.
    """

    def __init__(self, folder: Path | None, distributed: bool = True) -> None:
        self._folder = folder
        self._rank = comm.get_rank()
        self._is_shared = distributed and comm.get_world_size() > 1
        if self._is_shared and folder is None:
            raise UserError(
                "evaluation by several processes needs an output_dir: set the evaluator's"
            )
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            if self._is_shared:
                own: IO[bytes] = self._path(self._rank).open("w+b")
            else:
                own = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open until it is released)
        except OSError as error:
            raise UserError(f"{folder}: masks cannot be written here: {error}") from error
        self._files = {self._rank: own}

    def _path(self, rank: int) -> Path:
        assert self._folder is not None
        return self._folder / f".masks.{rank}.rle"

    def add(self, masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Write N masks (N, H, W); their places."""
        file, places = self._files[self._rank], np.empty(len(masks), np.int64)
        for i, mask in enumerate(masks):
            rle = coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))
            places[i] = (self._rank << _RANK) | file.tell()
            file.write(_HEAD.pack(*rle["size"], len(rle["counts"])) + rle["counts"])
        return places

    def share(self) -> None:
        """Let the main process read all masks; a collective operation."""
        self._files[self._rank].flush()
        if not self._is_shared:
            return
        comm.synchronize()
        if comm.is_main_process():
            for rank in range(1, comm.get_world_size()):
                self._files[rank] = self._path(rank).open("rb")
        comm.synchronize()
        self._path(self._rank).unlink(missing_ok=True)  # it stays readable while it is open

    def read(self, place: int) -> dict[str, Any]:
        """The mask of a place, as RLE."""
        file = self._files[place >> _RANK]
        file.seek(place & ((1 << _RANK) - 1))
        height, width, length = _HEAD.unpack(file.read(_HEAD.size))
        return {"size": [height, width], "counts": file.read(length)}
