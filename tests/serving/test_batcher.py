"""Batches without HTTP."""

import asyncio
import threading

import pytest

from detclip2.serving.batcher import Batcher


class Doubler:
    """Doubles numbers; the first call waits for the gate, and 13 fails."""

    def __init__(self):
        self.gate = threading.Event()
        self.calls = []

    def __call__(self, kind, items):
        assert self.gate.wait(60)
        self.calls.append((kind, list(items)))
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


async def gathered(batcher, gate, jobs):
    """The results of jobs that arrive while the first of them is computed."""
    tasks = []
    for job in jobs:
        tasks.append(asyncio.ensure_future(batcher(*job)))
        await asyncio.sleep(0)
    gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def run(jobs, size=3):
    function, sizes = Doubler(), []

    async def main():
        return await gathered(Batcher(function, size, sizes.append), function.gate, jobs)

    return asyncio.run(main()), function.calls, sizes


def test_what_arrives_meanwhile_is_the_next_batch():
    results, calls, sizes = run([("a", n) for n in range(6)])
    assert results == [0, 2, 4, 6, 8, 10]
    assert calls == [("a", [0]), ("a", [1, 2, 3]), ("a", [4, 5])]
    assert sizes == [1, 3, 2]


def test_kinds_are_apart_and_the_oldest_is_first():
    results, calls, _ = run([("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4)])
    assert results == [0, 2, 4, 6, 8]
    assert calls == [("a", [0]), ("b", [1, 3]), ("a", [2, 4])]


def test_an_item_fails_alone(caplog):
    results, calls, _ = run([("a", 0), ("a", 1), ("a", 13), ("a", 2)])
    assert results[:2] == [0, 2]
    assert results[3] == 4
    assert isinstance(results[2], ValueError)
    assert calls[1:] == [("a", [1, 13, 2]), ("a", [1]), ("a", [13]), ("a", [2])]
    assert "one by one" in caplog.text


def test_items_of_callers_who_gave_up_are_dropped():
    function = Doubler()

    async def main():
        batcher = Batcher(function, 3)
        first = asyncio.ensure_future(batcher("a", 0))
        second = asyncio.ensure_future(batcher("a", 1))
        await asyncio.sleep(0)
        second.cancel()
        third = asyncio.ensure_future(batcher("a", 2))
        await asyncio.sleep(0)
        function.gate.set()
        assert await first == 0
        assert await third == 4
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await batcher("a", 5) == 10, "it begins again after a pause"

    asyncio.run(main())
    assert [items for _, items in function.calls] == [[0], [2], [5]]
