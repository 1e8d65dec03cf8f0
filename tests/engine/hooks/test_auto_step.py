import logging
import math

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from fvcore.common.param_scheduler import LinearParamScheduler

from detclip2.engine.hooks.auto_step import AutoStep, Stagnated
from detclip2.utils.errors import UserError


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return {"loss": (self.weight - 1).square().sum()}


class KeepRates(HookBase):
    def __init__(self, rates):
        self.rates = rates

    def before_step(self):
        self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])


def run(values, max_iter=200, **settings):
    """Train with evaluations that give `values` in turn; the rates of all iterations, and why
    training ended."""
    model = Loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    trainer = SimpleTrainer(model, iter(lambda: [], None), optimizer)
    schedule = hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 1.0))
    results = iter(values)
    rates = []
    evaluation = hooks.EvalHook(1, lambda: {"bbox": {"AP": next(results)}})
    trainer.register_hooks([KeepRates(rates), schedule, evaluation, AutoStep(schedule, **settings)])
    try:
        trainer.train(0, max_iter)
    except Stagnated:
        return rates, "stagnated"
    except StopIteration:
        pass
    return rates, "trained"


def test_the_rate_drops_by_ten_after_five_stagnant_evaluations_and_training_ends_after_eight():
    rates, end = run([10.0] + [9.0] * 100, min_lr=1e-4)
    assert end == "stagnated"
    # 1 + 5 evaluations at 1e-2; 5 at 1e-3; 8 at 1e-4, the lowest. A drop shows an iteration later.
    expected = [1e-2] * 7 + [1e-3] * 5 + [1e-4] * 7
    assert rates == pytest.approx(expected)


def test_an_improvement_starts_the_count_anew():
    values = [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0]
    rates, end = run(values, max_iter=len(values))
    assert end == "trained"
    assert rates == pytest.approx([1e-2] * len(values))


def test_the_last_drop_ends_at_the_lowest_rate_and_nan_is_no_improvement():
    rates, end = run([math.nan] * 100, drop_after=1, stop_after=2, min_lr=4e-3)
    assert end == "stagnated"
    assert rates == pytest.approx([1e-2, 1e-2, 4e-3])


def test_the_state_goes_into_a_checkpoint():
    one = AutoStep(hooks.LRScheduler())
    one.best, one.stagnant = 3.0, 4
    other = AutoStep(hooks.LRScheduler())
    other.load_state_dict(one.state_dict())
    assert (other.best, other.stagnant) == (3.0, 4)


@pytest.mark.parametrize("settings", [{"drop_after": 0}, {"factor": 1.0}, {"min_lr": 0.0}])
def test_numbers_that_make_no_sense_are_told(settings):
    with pytest.raises(UserError, match=r"train\.auto_step"):
        AutoStep(hooks.LRScheduler(), **settings)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)
