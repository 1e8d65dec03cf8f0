import contextlib

import pytest
import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import LinearParamScheduler

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.plateau import ReduceLROnPlateau
from detclip2.engine.hooks.resumable import (
    ResumableBestCheckpointer,
    ResumableEvalHook,
    ResumablePeriodicCheckpointer,
)
from detclip2.engine.trainer import NonFiniteSteps, Trainer
from tests.helpers.toy import ToyModel, toy_loader, toy_trainer


def train(folder, metrics, iterations, resume=False, period=2):
    """Evaluate after every iteration but the last; metrics[i] belongs to iteration i."""
    trainer = toy_trainer(toy_loader())
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    best = ResumableBestCheckpointer(1, checkpointer, "bbox/AP")
    trainer.register_hooks(
        [
            ResumablePeriodicCheckpointer(checkpointer, period, max_to_keep=2),
            hooks.EvalHook(
                1, lambda: {"bbox": {"AP": metrics[min(trainer.iter, len(metrics) - 1)]}}
            ),
            best,
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    trainer.train(trainer.iter + 1 if resume else 0, iterations)
    return best


def test_a_resumed_run_keeps_the_best_metric(tmp_path):
    best = train(tmp_path, [10.0, 30.0, 20.0, 5.0], 4)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    kept = state["trainer"]["hooks"]["ResumableBestCheckpointer"]
    assert kept == {"name": "bbox/AP", "metric": 30.0, "iteration": 1}
    before = (tmp_path / "model_best.pth").read_bytes()

    best = train(tmp_path, [0.0, 0.0, 0.0, 0.0, 25.0, 29.0], 6, resume=True)
    assert (best.best_metric, best.best_iter) == (30.0, 1)
    assert (tmp_path / "model_best.pth").read_bytes() == before

    best = train(tmp_path, [0.0] * 6 + [31.0, 31.0], 8, resume=True)
    assert (best.best_metric, best.best_iter) == (31.0, 6)
    assert (tmp_path / "model_best.pth").read_bytes() != before


def test_the_best_checkpoint_stores_its_metric(tmp_path):
    """A run can be resumed from it: it is written after the periodic one of the same iteration."""
    train(tmp_path, [10.0, 30.0, 40.0, 5.0], 4)
    state = torch.load(tmp_path / "model_best.pth", weights_only=True)
    kept = state["trainer"]["hooks"]["ResumableBestCheckpointer"]
    assert kept == {"name": "bbox/AP", "metric": 40.0, "iteration": 2}


def our_trainer(folder, *its_hooks):
    loader = toy_loader()
    model = ToyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, loader, optimizer, NonFiniteSteps(str(folder)))
    trainer.register_hooks(its_hooks)
    return trainer


def test_the_best_metric_is_read_from_checkpoints_with_former_hook_names(tmp_path):
    """Former checkpoints have the best metric under "BestCheckpointer", without its name."""
    state = our_trainer(tmp_path).state_dict()
    state["hooks"] = {"BestCheckpointer": {"metric": 30.0, "iteration": 1}}
    best = ResumableBestCheckpointer(1, None, "bbox/AP")
    our_trainer(tmp_path, best).load_state_dict(state)
    assert (best.best_metric, best.best_iter) == (30.0, 1)


def test_the_best_of_another_metric_is_ignored(caplog):
    best = ResumableBestCheckpointer(1, None, "bbox_fixed/AP")
    best.load_state_dict({"metric": 99.0, "iteration": 1})
    assert best.best_metric is None
    assert "this run keeps the best bbox_fixed/AP" in caplog.text
    best.load_state_dict({"name": "bbox_fixed/AP", "metric": 7.0, "iteration": 3})
    assert (best.best_metric, best.best_iter) == (7.0, 3)


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_nan_is_never_the_best(tmp_path, metric):
    assert train(tmp_path, [metric], 3).best_metric is None
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert "ResumableBestCheckpointer" not in state["trainer"].get("hooks", {})


def test_old_checkpoints_are_deleted_after_a_resume(tmp_path):
    names = lambda: sorted(p.name for p in tmp_path.glob("model_0*.pth"))  # noqa: E731
    train(tmp_path, [1.0], 5)
    assert names() == ["model_0000001.pth", "model_0000003.pth"]
    train(tmp_path, [1.0], 8, resume=True)
    assert names() == ["model_0000005.pth", "model_0000007.pth"]


class Kill(Exception):
    """Stands for a kill: no code catches it."""


class KillAt(HookBase):
    """Ends the process at a moment of an iteration, by its method of that name."""

    def __init__(self, moment, iteration):
        def kill():
            if self.trainer.iter == iteration:
                raise Kill

        setattr(self, moment, kill)


def owed(folder, *, kill_in=None, resume=False, known=True, iterations=8, period=2):
    """Evaluate every `period` iterations, killed in the evaluation of one: those that were done,
    and those that a judge has seen."""
    trainer = toy_trainer(toy_loader())
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    done, judged = [], []

    def evaluate():
        if trainer.iter == kill_in:
            raise Kill
        done.append(trainer.iter)
        return {"bbox": {"AP": float(trainer.iter)}}

    class Judge(HookBase):
        def after_step(self):
            metric, when = self.trainer.storage.latest().get("bbox/AP", (None, -1))
            if when == self.trainer.iter:
                judged.append((when, metric))

    judge = Judge()
    evaluation = ResumableEvalHook(period, evaluate, [judge])
    if not known:
        evaluation.state_dict = dict
    trainer.register_hooks([ResumablePeriodicCheckpointer(checkpointer, 1), evaluation, judge])
    checkpointer.resume_or_load("", resume=resume)
    with contextlib.suppress(Kill):
        trainer.train(trainer.iter + 1 if resume else 0, iterations)
    return done, judged


def test_an_evaluation_that_was_cut_off_is_repeated_and_judged(tmp_path):
    assert owed(tmp_path, kill_in=3) == ([1], [(1, 1.0)])
    done, judged = owed(tmp_path, resume=True)
    assert done == [3, 5, 8]  # 8: after the training
    assert judged == [(3, 3.0), (5, 5.0)]


def test_a_longer_run_makes_the_evaluation_that_it_would_have_had(tmp_path):
    """The last iteration of a run is evaluated after the training, where nothing is judged."""
    owed(tmp_path, iterations=4)
    assert owed(tmp_path, resume=True, iterations=6) == ([3, 6], [(3, 3.0)])


def test_an_evaluation_that_was_made_is_not_repeated(tmp_path):
    trainer = toy_trainer(toy_loader())
    evaluation = ResumableEvalHook(2, dict)
    trainer.register_hooks([evaluation])
    trainer.max_iter = 8
    for evaluated, start, made in (
        (1, 2, []),
        (-1, 2, [1]),
        (-1, 1, []),
        (None, 2, []),
        (5, 8, []),
    ):
        calls = []
        evaluation._func = lambda calls=calls: calls.append(trainer.iter)
        evaluation.evaluated, trainer.start_iter, trainer.iter = evaluated, start, start
        with EventStorage(start) as trainer.storage:
            evaluation.before_train()
        assert calls == made
        assert trainer.iter == trainer.storage.iter == start


def test_former_checkpoints_do_not_tell_and_repeat_nothing(tmp_path):
    owed(tmp_path, kill_in=3, known=False)
    assert owed(tmp_path, resume=True)[0] == [5, 8]


def plateau_run(folder, values, kill=None, resume=False):
    """Train with AP `values`, one for every second iteration; rates by iteration, and the counts
    of the plateau and the best metric at the end."""
    trainer = toy_trainer(toy_loader())
    checkpointer = Checkpointer(trainer.model, str(folder), trainer=trainer)
    schedule = hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.5))
    plateau = ReduceLROnPlateau(schedule, patience=1)
    best = ResumableBestCheckpointer(2, checkpointer, "bbox/AP")
    rates = {}

    def evaluate():
        if kill == ("evaluation", trainer.iter):
            raise Kill
        return {"bbox": {"AP": values[min(trainer.iter // 2, len(values) - 1)]}}

    class Rates(HookBase):
        def before_step(self):
            rates[self.trainer.iter] = self.trainer.optimizer.param_groups[0]["lr"]

    trainer.register_hooks(
        [
            *([KillAt(*kill)] if kill and kill[0] != "evaluation" else []),
            Rates(),
            schedule,
            ResumablePeriodicCheckpointer(checkpointer, 2),
            ResumableEvalHook(2, evaluate, [plateau, best]),
            plateau,
            best,
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    with contextlib.suppress(Kill):
        trainer.train(trainer.iter + 1 if resume else 0, 2 * len(values))
    return rates, plateau.state_dict(), (best.best_metric, best.best_iter)


@pytest.mark.parametrize("moment", ["before_step", "after_step", "evaluation"])
@pytest.mark.parametrize("iteration", [3, 5, 7, 9])
def test_rates_and_counts_of_a_resumed_run_are_those_of_the_whole(tmp_path, moment, iteration):
    """Killed at every moment around evaluations; the best ones are checkpoints too."""
    values = [10.0, 9.0, 11.0, 10.0, 12.0, 8.0]
    rates, counts, best = plateau_run(tmp_path / "whole", values)
    assert len({round(rate, 7) for rate in rates.values()}) > len(rates) // 2
    assert min(rates.values()) < 0.02 * max(rates.values())  # reduced twice
    plateau_run(tmp_path / "part", values, kill=(moment, iteration))
    again, *others = plateau_run(tmp_path / "part", values, resume=True)
    assert again == {i: pytest.approx(rate) for i, rate in rates.items() if i in again}
    assert max(again) == 11
    assert others == [counts, best]
