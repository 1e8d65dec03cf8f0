"""Schedules of runs that begin alike: exact numbers of iterations, and equal rates to the bit."""

import math
from collections import Counter

import pytest
import torch
from detectron2.solver import LRMultiplier

from detclip2.engine.budget import SharedStartCosine, schedule_of_budget
from detclip2.engine.hooks.source_schedule import Schedule
from detclip2.utils.errors import UserError


def rates(max_iter, warmup, shared, first=0):
    """Of every iteration, as training has them; from `first` on as a resumed run has them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    if first:
        optimizer.param_groups[0]["initial_lr"] = 0.3
    multiplier = SharedStartCosine(max_iter, warmup, shared)
    scheduler = LRMultiplier(optimizer, multiplier, max_iter, last_iter=first - 1)
    found = []
    for _ in range(first, max_iter):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_rates_are_equal_to_the_bit_up_to_the_end_of_the_shared_start():
    shared = 30
    runs = [rates(length, 7, shared) for length in (30, 31, 97, 1000)]
    for run in runs:
        assert run[:shared] == runs[0][:shared]
    assert runs[0][0] == pytest.approx(0.3 * 0.001)
    assert runs[0][7:] == [0.3] * 23
    assert rates(97, 7, shared, first=30) == runs[2][30:]


def test_it_is_a_cosine_after_the_shared_start():
    run = rates(100, 10, 40)
    for i in range(40, 100):
        expected = 0.3 * (1 + math.cos(math.pi * (i - 40) / 60)) / 2
        assert run[i] == pytest.approx(expected, rel=1e-12)
    assert SharedStartCosine(100, 10, 40)(1.0) == pytest.approx(0, abs=1e-12)
    assert SharedStartCosine(10, 0, 10)(1.0) == 1


@pytest.mark.parametrize("numbers", [(10, 5, 3), (10, 5, 11), (10, -1, 5)])
def test_a_start_that_does_not_fit_is_refused(numbers):
    with pytest.raises(UserError, match="warmup_iterations <= shared <= max_iter"):
        SharedStartCosine(*numbers)


@pytest.mark.parametrize("others", [{}, {"pairs": 700}, {"grounding": 300, "pairs": 800}])
def test_every_source_has_its_iterations_and_the_start_is_the_same(others):
    keys = schedule_of_budget({"detection": 900, "unused": 0, **others}, 400)
    schedule = Schedule(keys["source_ratios"], 3, starts=keys["source_starts"])
    order = [schedule.source_of(i) for i in range(keys["max_iter"])]
    assert Counter(order) == {"detection": 900, **others}
    assert order[:400] == ["detection"] * 400
    assert set(order[400:500]) == {"detection", *others}


@pytest.mark.parametrize(
    "iterations", [{"detection": 400}, {"pairs": 100}, {"detection": 500, "pairs": -1}]
)
def test_a_budget_that_cannot_be_kept_is_refused(iterations):
    with pytest.raises(UserError, match="budget"):
        schedule_of_budget(iterations, 400)
