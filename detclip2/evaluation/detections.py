"""The detections of a data set as compact arrays, of which only the best are kept.

A detection takes 32 bytes here and about a thousand as a Python dict, so that what large
vocabularies find in large data sets stays in memory.
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


def detections_of(instances: Instances, image_id: int) -> Detections:
    """What a model has found in one image; its classes are taken as they are."""
    boxes = instances.pred_boxes.tensor.cpu().float()
    found = np.empty(len(boxes), DETECTION)
    found["image"] = image_id
    found["category"] = instances.pred_classes.cpu().numpy()
    found["score"] = instances.scores.cpu().float().numpy()
    found["box"] = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).numpy()
    return found


def order(detections: Detections) -> NDArray[np.intp]:
    """Indices by score, the best first; equal scores by image id, then by box.

    No two detections that differ are equal in this order, so what it cuts and sorts does not
    depend on the order of images, their batches or processes.
    """
    x, y, width, height = detections["box"].T
    return np.lexsort((height, width, y, x, detections["image"], -detections["score"]))


def best(detections: Detections, limit: int) -> Detections:
    """The first `limit` of :func:`order`, in any order."""
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
    """Takes detections in and keeps the best of each class.

    It holds at most 1.5 * C * limit + block detections, and twice that while it cuts, however many
    it is given.

    Args:
        limit: how many of a class are kept.
        block: detections that are taken in between two cuts, at least.
    """

    def __init__(self, limit: int, block: int = 1_000_000) -> None:
        self.limit = limit
        self._block = block
        self._kept = np.empty(0, DETECTION)
        self._new: list[Detections] = []
        self._num_new = 0

    def add(self, detections: Detections) -> None:
        """Take in some more."""
        self._new.append(detections)
        self._num_new += len(detections)
        # Not before half of what is kept is new, so that no detection is moved often.
        if self._num_new >= max(self._block, len(self._kept) // 2):
            self._cut()

    def kept(self) -> Detections:
        """The best of each class, in any order."""
        self._cut()
        return self._kept

    def _cut(self) -> None:
        detections = np.concatenate([self._kept, *self._new])
        self._kept, self._new, self._num_new = detections[:0], [], 0  # frees what was copied
        counts = np.bincount(detections["category"])
        if counts.max(initial=0) > self.limit:
            by_class = np.split(np.argsort(detections["category"]), np.cumsum(counts)[:-1])
            detections = np.concatenate([best(detections[i], self.limit) for i in by_class])
        self._kept = detections


class ByClass:
    """Detections of several processes, merged one class at a time, and only then cut.

    Item c holds those of class c, the best first (:func:`order`).

    Args:
        parts: what each process has, sorted by class; they may lie in files.
        num_classes: C.
        limit: how many of a class are kept; None for all.
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
    """The arrays of all processes, on the main one, without having them all in its memory.

    Args:
        array: of this process.
        folder: that all processes see; the files in it are gone when nobody reads the arrays.
        name: of the files.

    Returns:
        One array a process; [] on others than the main one.

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
        path.unlink()  # it stays readable until nobody has it open
