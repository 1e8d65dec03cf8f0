"""Detections of a data set as compact arrays that keep only the best.

A detection takes 32 bytes, and about a thousand as a Python dict, so detections of large
vocabularies on large data sets fit into memory. Masks are on the disk (`MaskFile`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from numpy.typing import NDArray

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

Detections = NDArray[np.void]
"""(n,) of `DETECTION`."""

DETECTION = np.dtype(
    [
        ("image", np.int64),  # its id
        ("category", np.int32),  # position in the vocabulary, from 0
        ("score", np.float32),
        ("box", np.float32, 4),  # XYWH px, as in COCO's results
    ]
)
MASKED = np.dtype([*DETECTION.descr, ("mask", np.int64)])
"""A `DETECTION` with the place of its mask in a `MaskFile`."""


def detections_of(
    instances: Instances, image_id: int, dtype: np.dtype[np.void] = DETECTION
) -> Detections:
    """The detections of one image as an array; classes are not mapped, and places not set."""
    boxes = instances.pred_boxes.tensor.cpu().float()
    found = np.empty(len(boxes), dtype)
    found["image"] = image_id
    found["category"] = instances.pred_classes.cpu().numpy()
    found["score"] = instances.scores.cpu().float().numpy()
    found["box"] = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy()
    return found


def order(detections: Detections) -> NDArray[np.intp]:
    """Indices by score, the best first; equal scores by image id, then by box.

    Different detections never tie in this order, so results do not depend on the order of images,
    batches or processes.
    """
    x, y, width, height = detections["box"].T
    return np.lexsort((height, width, y, x, detections["image"], -detections["score"]))


def best(detections: Detections, limit: int) -> Detections:
    """The first `limit` of `order`, in any order."""
    surplus = len(detections) - limit
    if surplus <= 0:
        return detections
    if limit == 0:
        return detections[:0]
    scores = detections["score"]
    worst = np.partition(scores, surplus)[surplus]
    above, tied = detections[scores > worst], detections[scores == worst]
    return np.concatenate([above, tied[order(tied)[: limit - len(above)]]])


class BestOfClasses:
    """Keeps the best detections of each class.

    It holds at most 1.5 * C * limit + block detections, and twice that while it cuts.

    Args:
        limit: detections that are kept of a class.
        block: the least detections to add between two cuts.
        dtype: of the detections.
    """

    def __init__(
        self, limit: int, block: int = 1_000_000, dtype: np.dtype[np.void] = DETECTION
    ) -> None:
        self.limit = limit
        self._block = block
        self._kept = np.empty(0, dtype)
        self._new: list[Detections] = []
        self._num_new = 0

    def add(self, detections: Detections) -> None:
        """Add detections."""
        self._new.append(detections)
        self._num_new += len(detections)
        # Cut only after half as many new as kept ones, so that no detection moves often.
        if self._num_new >= max(self._block, len(self._kept) // 2):
            self._cut()

    def kept(self) -> Detections:
        """The best of each class, in any order."""
        self._cut()
        return self._kept

    def _cut(self) -> None:
        detections = np.concatenate([self._kept, *self._new])
        self._kept, self._new, self._num_new = detections[:0], [], 0  # free the copied parts
        counts = np.bincount(detections["category"])
        if counts.max(initial=0) > self.limit:
            by_class = np.split(np.argsort(detections["category"]), np.cumsum(counts)[:-1])
            detections = np.concatenate([best(detections[i], self.limit) for i in by_class])
        self._kept = detections


class ByClass:
    """Detections of several processes, merged and cut one class at a time.

    Item c has the detections of class c, the best first (`order`).

    Args:
        parts: detections of each process, sorted by class; may be memory-mapped.
        num_classes: C.
        limit: detections that are kept of a class; None for all.
    """

    def __init__(
        self, parts: Sequence[Detections], num_classes: int, limit: int | None = None
    ) -> None:
        classes = np.arange(num_classes + 1)
        self._parts = [(part, np.searchsorted(part["category"], classes)) for part in parts]
        self._num_classes = num_classes
        self._limit = limit

    def __len__(self) -> int:
        return self._num_classes

    def __getitem__(self, index: int) -> Detections:
        if not 0 <= index < len(self):
            raise IndexError(index)
        merged = np.concatenate([part[at[index] : at[index + 1]] for part, at in self._parts])
        if self._limit is not None:
            merged = best(merged, self._limit)
        return merged[order(merged)]


def gather(array: NDArray[np.void], folder: Path | None, name: str) -> list[NDArray[np.void]]:
    """Gather the arrays of all processes on the main one through files, not in memory.

    Args:
        array: the array of this process.
        folder: a folder that all processes share; its files vanish once the arrays are released.
        name: name of the files.

    Returns:
        One array per process; [] on processes other than the main one.

    Raises:
        UserError: there are several processes and no folder, or not all of them see it.
    """
    if comm.get_world_size() == 1:
        return [array]
    if folder is None:
        raise UserError("evaluation by several processes needs an output_dir: set the evaluator's")
    paths = [folder / f".{name}.{rank}.npy" for rank in range(comm.get_world_size())]
    own = paths[comm.get_rank()]
    write_whole(own, lambda file: np.save(file, array, allow_pickle=False))
    comm.synchronize()
    if not comm.is_main_process():
        return []
    try:
        return list(_take(paths))
    except OSError as error:
        raise UserError(
            f"{error.filename}: what another process wrote is not here; the output folder must "
            "be one that all machines share"
        ) from error


def _take(paths: Sequence[Path]) -> Iterator[NDArray[np.void]]:
    for path in paths:
        yield np.load(path, mmap_mode="r", allow_pickle=False)
        path.unlink()  # it stays readable while it is open
