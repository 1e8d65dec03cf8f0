import math

import pytest
import torch
from detectron2.solver import LRMultiplier

from detclip2.engine.schedule import warmup_cosine


def cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


def test_warms_up_linearly_and_goes_down_a_cosine_to_zero():
    schedule = warmup_cosine(max_iter=200, warmup_iterations=20)
    start, end = 0.001, cosine(0.1)
    for iteration in range(200):
        progress = iteration / 200
        linear = start + (end - start) * progress / 0.1
        expected = linear if iteration < 20 else cosine(progress)
        assert schedule(progress) == pytest.approx(expected, abs=1e-9)
    assert schedule(0) == pytest.approx(0.001)
    assert schedule(1.0) == pytest.approx(0, abs=1e-9)


def test_the_optimizer_follows_it():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    multiplier = LRMultiplier(optimizer, warmup_cosine(100, 10), max_iter=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        multiplier.step()
    assert rates[0] == pytest.approx(0.5 * 0.001)
    assert rates[10:] == pytest.approx([0.5 * cosine(i / 100) for i in range(10, 100)])


def test_a_run_shorter_than_the_warm_up_only_warms_up():
    schedule = warmup_cosine(max_iter=50, warmup_iterations=1000)
    rates = [schedule(i / 50) for i in range(50)]
    assert rates[0] == pytest.approx(0.001)
    assert all(0 <= rate <= 0.001 for rate in rates)
