"""Which record each worker process is reading, for the case that it dies of it."""

import multiprocessing
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import get_worker_info

NOTHING = -1


class Reading:
    """A table that worker processes write and their parent reads; made before they are.

    Args:
        num_workers: rows, one a worker.
    """

    def __init__(self, num_workers: int) -> None:
        # Of the "spawn" context, because that can be handed to workers however they start. Without
        # a lock: every worker has its own rows, and one that dies must not leave it locked.
        context = multiprocessing.get_context("spawn")
        self._pids: Any = context.Array("q", [0] * num_workers, lock=False)
        self._indices: Any = context.Array("q", [NOTHING] * num_workers, lock=False)

    @contextmanager
    def of(self, index: int) -> Iterator[None]:
        """While the record of this index is read; it stays noted where the process dies of it."""
        worker = get_worker_info()
        row = 0 if worker is None else worker.id
        self._pids[row], self._indices[row] = os.getpid(), index
        try:
            yield
        finally:
            self._indices[row] = NOTHING

    def records_of_dead_workers(self, message: str) -> list[int]:
        """The records that processes were reading whose ids are in a message about their death."""
        dead = {int(number) for number in re.findall(r"\d+", message)}
        return [
            index
            for pid, index in zip(self._pids, self._indices, strict=True)
            if pid in dead and index != NOTHING
        ]
