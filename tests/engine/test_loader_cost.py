"""The formula of loader processes against a simulation of loaders and steps."""

import heapq
import random

import pytest

from detclip2.engine.hooks.source_schedule import SourceSchedule
from detclip2.engine.loader_cost import SourceRate, loader_processes

PREFETCH = 2  # batches that each worker of PyTorch's loader makes ahead
ITERATIONS = 4000


class Loader:
    """PyTorch's loader: workers make whole batches, which are handed out in order."""

    def __init__(self, workers, seconds):
        self.seconds = seconds
        self.free = [0.0] * workers  # when each worker can begin another batch
        self.ready = []  # when each batch that is asked for is finished, in order
        for _ in range(PREFETCH * workers):
            self.ask(0.0)

    def ask(self, now):
        worker_free = heapq.heappop(self.free)
        done = max(worker_free, now) + self.seconds
        heapq.heappush(self.free, done)
        self.ready.append(done)

    def next(self, now):
        """When the next batch is there for one who asks now."""
        there = max(now, self.ready.pop(0))
        self.ask(there)
        return there


def waiting_share(rates, workers, iterations=ITERATIONS):
    """The share of the time that the steps of a run wait for data, after a warm-up."""
    loaders = {
        name: Loader(workers[name], rate.batch / rate.loaded) for name, rate in rates.items()
    }
    schedule = SourceSchedule({name: rate.share for name, rate in rates.items()})
    now, waited, begin = 0.0, 0.0, 0.0
    for iteration in range(iterations):
        if iteration == iterations // 10:
            waited, begin = 0.0, now
        source = schedule.source_of(iteration)
        there = loaders[source].next(now)
        waited += there - now
        now = there + rates[source].seconds
    return waited / (now - begin)


# Batch of a process, share of the iterations, seconds of one, samples a second of a loader.
PAPER = {
    "detection": SourceRate(4, 0.39, 0.1, 60),
    "flickr": SourceRate(4, 0.09, 0.1, 68),
    "mixed": SourceRate(4, 0.36, 0.1, 68),
    "pairs": SourceRate(192, 0.16, 0.3, 140),
}
RUNS = [
    PAPER,
    {**PAPER, "pairs": SourceRate(192, 0.16, 1.5, 20)},
    {"pairs": SourceRate(192, 1.0, 0.1, 140)},
    {"boxes": SourceRate(8, 0.5, 0.01, 100), "pairs": SourceRate(64, 0.5, 0.02, 100)},
    {"boxes": SourceRate(2, 0.95, 1.0, 0.5), "pairs": SourceRate(96, 0.05, 1.0, 1)},
]


@pytest.mark.parametrize("rates", RUNS)
def test_steps_seldom_wait_with_these_loaders_and_do_with_half_of_them(rates):
    workers = loader_processes(rates)
    assert waiting_share(rates, workers) <= 0.05  # the budget of a training
    most = max(workers, key=workers.__getitem__)
    assert workers[most] >= 2
    assert waiting_share(rates, {**workers, most: workers[most] // 2}) > 0.05


def test_of_many_runs_by_chance_all_but_one_in_a_hundred_seldom_wait():
    rng, waits = random.Random(0), []
    for _ in range(300):
        shares = [rng.uniform(0.05, 1) for _ in range(rng.randint(1, 4))]
        rates = {
            str(number): SourceRate(
                batch=rng.choice([1, 4, 16, 192]),
                share=share / sum(shares),
                seconds=10 ** rng.uniform(-2, 0.5),
                loaded=10 ** rng.uniform(0, 2.5),
            )
            for number, share in enumerate(shares)
        }
        waits.append(waiting_share(rates, loader_processes(rates), 500))
    assert sum(wait > 0.05 for wait in waits) <= 3
    assert max(waits) <= 0.15


def test_by_hand():
    # A mean iteration takes 2 s, in which pairs need 48 samples: 24 a second, of the 8 that a
    # loader makes in four fifths of its time. Eight or nine iterations of boxes may follow each
    # other: one loader has two batches ready and makes more in less than an iteration.
    rates = {"boxes": SourceRate(8, 0.5, 1.0, 10), "pairs": SourceRate(96, 0.5, 3.0, 10)}
    assert loader_processes(rates) == {"boxes": 1, "pairs": 3}
    # A run of one source: 192 samples in 0.5 s, of 80 that a loader makes in a second.
    assert loader_processes({"pairs": SourceRate(192, 1.0, 0.5, 100)}) == {"pairs": 5}


@pytest.mark.parametrize("faster", [2, 10])
def test_faster_steps_need_more_loaders(faster):
    for rates in RUNS:
        quick = {
            name: SourceRate(r.batch, r.share, r.seconds / faster, r.loaded)
            for name, r in rates.items()
        }
        before, after = loader_processes(rates), loader_processes(quick)
        assert all(after[name] >= before[name] for name in rates)
        assert waiting_share(quick, after) <= 0.05


def test_a_queue_without_workers_to_spare_is_simulated_right():
    """One worker, whose batch takes as long as two steps: half of the time is waiting."""
    rates = {"only": SourceRate(10, 1.0, 1.0, 5)}
    assert waiting_share(rates, {"only": 1}) == pytest.approx(0.5, abs=0.01)
    assert waiting_share(rates, {"only": 2}) == pytest.approx(0, abs=0.01)
