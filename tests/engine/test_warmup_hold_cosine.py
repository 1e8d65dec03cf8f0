"""The schedule that warms up, holds and decays: the length changes no rate before the decay."""

import math

import pytest
import torch
from detectron2.solver import LRMultiplier

from detclip2.engine.solver import WarmupHoldCosine
from detclip2.utils.errors import UserError


def rates(max_iter, warmup, decay_start, first=0):
    """Rates of every iteration as in training; from `first` on as in a resumed run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    if first:
        optimizer.param_groups[0]["initial_lr"] = 0.3
    multiplier = WarmupHoldCosine(max_iter, warmup, decay_start)
    scheduler = LRMultiplier(optimizer, multiplier, max_iter, last_iter=first - 1)
    found = []
    for _ in range(first, max_iter):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_rates_are_equal_to_the_bit_until_the_decay_starts():
    decay_start = 30
    runs = [rates(length, 7, decay_start) for length in (30, 31, 97, 1000)]
    for run in runs:
        assert run[:decay_start] == runs[0][:decay_start]
    assert runs[0][0] == pytest.approx(0.3 * 0.001)
    assert runs[0][7:] == [0.3] * 23
    assert rates(97, 7, decay_start, first=30) == runs[2][30:]


def test_the_decay_is_a_cosine():
    run = rates(100, 10, 40)
    for i in range(40, 100):
        expected = 0.3 * (1 + math.cos(math.pi * (i - 40) / 60)) / 2
        assert run[i] == pytest.approx(expected, rel=1e-12)
    assert WarmupHoldCosine(100, 10, 40)(1.0) == pytest.approx(0, abs=1e-12)
    assert WarmupHoldCosine(10, 0, 10)(1.0) == 1


@pytest.mark.parametrize("numbers", [(10, 5, 3), (10, 5, 11), (10, -1, 5)])
def test_a_decay_outside_of_the_run_is_refused(numbers):
    with pytest.raises(UserError, match="warmup_iterations <= decay_start <= max_iter"):
        WarmupHoldCosine(*numbers)
