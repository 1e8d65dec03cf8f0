"""Batches that form by themselves: what arrives while one is computed is the next."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class _Job(NamedTuple):
    kind: Any
    item: Any
    result: "asyncio.Future[Any]"


class Batcher(Generic[Kind, Item, Result]):
    """Calls a function with the items of many callers, in one thread.

    An item does not wait for others: a batch is what has gathered while the one before it was
    computed. Where a batch fails, its items are tried one by one, so that an item fails by itself
    alone. Items whose callers have given up are dropped before they cost anything.

    Args:
        function: a kind and a list of items of it -> the list of their results.
        batch_size: most items of a batch.
        observe: gets the size of each batch.
    """

    def __init__(
        self,
        function: Callable[[Kind, list[Item]], Sequence[Result]],
        batch_size: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._function = function
        self._batch_size = batch_size
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, kind: Kind, item: Item) -> Result:
        """The result of an item.

        Args:
            kind: only items of an equal kind share a batch.
            item: one.

        Raises:
            Exception: what the function raises for this item.
        """
        job = _Job(kind, item, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await job.result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            self._observe(len(batch))
            items = [job.item for job in batch]
            kind = batch[0].kind
            results = await loop.run_in_executor(self._thread, self._results, kind, items)
            for job, result in zip(batch, results, strict=True):
                if job.result.done():  # its caller has given up
                    continue
                if isinstance(result, Exception):
                    job.result.set_exception(result)
                else:
                    job.result.set_result(result)

    def _next(self) -> list[_Job]:
        """The oldest job and those of its kind; the others stay in order."""
        batch: list[_Job] = []
        others: list[_Job] = []
        while self._jobs and len(batch) < self._batch_size:
            job = self._jobs.popleft()
            if job.result.done():
                continue
            (batch if not batch or job.kind == batch[0].kind else others).append(job)
        self._jobs.extendleft(reversed(others))
        return batch

    def _results(self, kind: Kind, items: list[Item]) -> Sequence[object]:
        """The result of each item, or the exception that it raises."""
        try:
            return self._function(kind, items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            logger.warning("a batch of %d failed (%r): one by one", len(items), error)
        return [self._results(kind, [item])[0] for item in items]
