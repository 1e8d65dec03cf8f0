"""Reading ahead in threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from detclip2.utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], threads: int, ahead: int
) -> Iterator[tuple[Item, Result | UserError]]:
    """Each item with what `read` makes of it, in order, while the caller works on earlier ones.

    Pillow and PyTorch release Python's lock, so threads decode beside the detector.

    Args:
        items: taken one by one, as there is room.
        read: called in threads; a UserError becomes the result.
        threads: how many items are read at once.
        ahead: most results in memory that the caller has not taken, those being read included.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    pool = ThreadPoolExecutor(threads, "read-ahead")
    try:
        while True:
            while len(waiting) < ahead and (item := next(source, _END)) is not _END:
                waiting.append((item, pool.submit(read, item)))  # type: ignore[arg-type]
            if not waiting:
                return
            item, future = waiting.popleft()
            try:
                result: Result | UserError = future.result()
            except UserError as error:
                result = error
            del future  # its result is the caller's alone
            yield item, result  # type: ignore[misc]
            del result
    finally:  # also if the caller stops early
        pool.shutdown(wait=False, cancel_futures=True)


_END = object()
