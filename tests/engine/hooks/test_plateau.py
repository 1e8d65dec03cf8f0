import logging
import math

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from fvcore.common.param_scheduler import LinearParamScheduler

from detclip2.engine.hooks.plateau import EarlyStop, ReduceLROnPlateau
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
    """Train with evaluations that return `values` in turn; the rates, and why it ended."""
    model = Loss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    trainer = SimpleTrainer(model, iter(lambda: [], None), optimizer)
    schedule = hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 1.0))
    results = iter(values)
    rates = []
    evaluation = hooks.EvalHook(1, lambda: {"bbox": {"AP": next(results)}})
    trainer.register_hooks(
        [KeepRates(rates), schedule, evaluation, ReduceLROnPlateau(schedule, **settings)]
    )
    try:
        trainer.train(0, max_iter)
    except EarlyStop:
        return rates, "stagnated"
    except StopIteration:
        pass
    return rates, "trained"


def test_the_rate_drops_after_five_stagnant_evaluations_and_training_ends_after_eight():
    rates, end = run([10.0] + [9.0] * 100, min_lr=1e-4)
    assert end == "stagnated"
    # 1 + 5 evaluations at 1e-2; 5 at 1e-3; 8 at 1e-4, the lowest. A drop shows an iteration later.
    expected = [1e-2] * 7 + [1e-3] * 5 + [1e-4] * 7
    assert rates == pytest.approx(expected)


def test_an_improvement_resets_the_count():
    values = [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0]
    rates, end = run(values, max_iter=len(values))
    assert end == "trained"
    assert rates == pytest.approx([1e-2] * len(values))


def test_the_rate_has_a_minimum_and_nan_is_not_an_improvement():
    rates, end = run([math.nan] * 100, patience=1, early_stopping_patience=2, min_lr=4e-3)
    assert end == "stagnated"
    assert rates == pytest.approx([1e-2, 1e-2, 4e-3])


def test_the_state_is_saved_in_a_checkpoint():
    one = ReduceLROnPlateau(hooks.LRScheduler())
    one.best, one.stagnant = 3.0, 4
    other = ReduceLROnPlateau(hooks.LRScheduler())
    other.load_state_dict(one.state_dict())
    assert (other.best, other.stagnant) == (3.0, 4)


@pytest.mark.parametrize(
    "settings", [{"patience": 0}, {"early_stopping_patience": 0}, {"factor": 1.0}, {"min_lr": 0.0}]
)
def test_invalid_numbers_are_refused(settings):
    with pytest.raises(UserError, match=r"train\.reduce_lr_on_plateau"):
        ReduceLROnPlateau(hooks.LRScheduler(), **settings)


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)
