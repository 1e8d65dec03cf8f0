import math
from types import SimpleNamespace

import pytest
import torch
from detectron2.solver import LRMultiplier
from omegaconf import OmegaConf

from detclip2.engine.solver import (
    iterations_of_epochs,
    schedule_of_epochs,
    set_epochs,
    warmup_constant,
    warmup_cosine,
    warmup_steps,
)
from detclip2.utils.errors import UserError


def cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


def test_warms_up_linearly_and_decays_by_a_cosine_to_zero():
    schedule = warmup_cosine(max_iter=200, warmup_iterations=20)
    start, end = 0.001, cosine(0.1)
    for iteration in range(200):
        progress = iteration / 200
        linear = start + (end - start) * progress / 0.1
        expected = linear if iteration < 20 else cosine(progress)
        assert schedule(progress) == pytest.approx(expected, abs=1e-9)
    assert schedule(0) == pytest.approx(0.001)
    assert schedule(1.0) == pytest.approx(0, abs=1e-9)


def test_the_optimizer_follows_the_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    multiplier = LRMultiplier(optimizer, warmup_cosine(100, 10), max_iter=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        multiplier.step()
    assert rates[0] == pytest.approx(0.5 * 0.001)
    assert rates[10:] == pytest.approx([0.5 * cosine(i / 100) for i in range(10, 100)])


def test_the_steps_of_glip():
    schedule = warmup_steps(max_iter=1000, warmup_iterations=100)
    rates = [schedule(i / 1000) for i in range(1000)]
    assert rates[:100] == pytest.approx([0.001 + 0.999 * i / 100 for i in range(100)])
    assert rates[100:] == pytest.approx([1.0] * 570 + [0.1] * 220 + [0.01] * 110)
    assert schedule(1.0) == pytest.approx(0.01)
    short = warmup_steps(max_iter=2, warmup_iterations=0)  # of a fast_dev_run
    assert [short(i / 2) for i in range(3)] == pytest.approx([1.0, 1.0, 0.01])


@pytest.mark.parametrize("make", [warmup_cosine, warmup_constant, warmup_steps])
@pytest.mark.parametrize("max_iter", [50, 500, 1000, 1500])
def test_a_run_that_the_warm_up_would_fill_warms_up_for_a_tenth(make, max_iter, caplog):
    """With the warm-up of the paper, it would end before it reaches its rate."""
    schedule = make(max_iter, warmup_iterations=1000)
    rates = [schedule(i / max_iter) for i in range(max_iter)]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == rates[max_iter // 10] > 0.97
    assert rates[: max_iter // 10] == sorted(rates[: max_iter // 10])
    assert f"1000 in a run of {max_iter}: a tenth of the run warms up" in caplog.text


def test_half_of_a_run_may_warm_up(caplog):
    schedule = warmup_cosine(max_iter=100, warmup_iterations=50)
    assert schedule(0.5) == pytest.approx(cosine(0.5))
    assert schedule(0.25) == pytest.approx((0.001 + cosine(0.5)) / 2)
    assert not caplog.text


def test_warm_up_to_a_constant_rate():
    schedule = warmup_constant(max_iter=100, warmup_iterations=10)
    assert schedule(0.0) == pytest.approx(0.001)
    assert schedule(0.05) == pytest.approx(0.5005)
    assert [schedule(progress) for progress in (0.1, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_iterations_are_epochs_times_images_divided_by_batch_size():
    """The numbers of the paper's Tab. 1 and 9."""
    assert iterations_of_epochs(660_000, 128, 12) == 61_875
    assert iterations_of_epochs(13_000_000, 6144, 12) == 25_391
    assert iterations_of_epochs(100_170, 64, 24) == 37_564
    assert iterations_of_epochs(3, 2, 1) == 2  # the last batch extends into the next epoch

    sources = {
        "boxes": SimpleNamespace(total_batch_size=4),
        "pairs": SimpleNamespace(total_batch_size=10),
    }
    keys = schedule_of_epochs({"boxes": 10, "pairs": 15}, sources, 2)
    assert keys == {"max_iter": 8, "source_ratios": {"boxes": 5, "pairs": 3}}


def test_epochs_determine_the_length_of_a_run_with_one_source():
    source = SimpleNamespace(length=10, total_batch_size=4)
    keys = OmegaConf.create({"epochs": 5, "max_iter": 7, "eval_period": 0})
    set_epochs(keys, SimpleNamespace(sources={"boxes": source}))
    assert (keys.max_iter, keys.eval_period) == (13, 3)
    with pytest.raises(UserError, match=r"train\.epochs needs one source"):
        set_epochs(keys, SimpleNamespace(sources={"boxes": source, "pairs": source}))
    keys.epochs = None
    set_epochs(keys, SimpleNamespace(sources={"boxes": source, "pairs": source}))
    assert keys.max_iter == 13
