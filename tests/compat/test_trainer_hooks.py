import json
import math

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.utils.events import EventWriter, JSONWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, batch):
        return {"loss": self.layer(batch).square().mean()}


def endless():
    while True:
        yield torch.ones(1, 2)


def make(rate=0.1):
    model = Tiny()
    return SimpleTrainer(model, endless(), torch.optim.SGD(model.parameters(), rate))


class Note(HookBase):
    def __init__(self):
        self.calls = []

    def before_train(self):
        self.calls.append(("before_train", self.trainer.iter))

    def before_step(self):
        self.calls.append(("before_step", self.trainer.iter))

    def after_step(self):
        self.calls.append(("after_step", self.trainer.iter))

    def after_train(self):
        self.calls.append(("after_train", self.trainer.iter))


def test_moments():
    trainer, note = make(), Note()
    trainer.register_hooks([note])
    trainer.train(3, 4)
    assert note.calls == [
        ("before_train", 3),
        ("before_step", 3),
        ("after_step", 3),
        ("after_train", 4),
    ]


def test_time_is_stored_after_the_warm_up():
    trainer = make()
    trainer.register_hooks([hooks.IterationTimer()])
    trainer.train(5, 15)
    times = trainer.storage.history("time").values()
    assert [iteration for _, iteration in times] == list(range(7, 15))
    assert all(seconds > 0 for seconds, _ in times)


class Writer(EventWriter):
    def __init__(self, trainer):
        self.trainer, self.calls = trainer, []

    def write(self):
        self.calls.append(self.trainer.iter)

    def close(self):
        self.calls.append("closed")


@pytest.mark.parametrize(("stop", "expected"), [(9, [3, 7, 8]), (8, [3, 7])])
def test_writers_write_periodically_and_at_the_end(stop, expected):
    trainer = make()
    writer = Writer(trainer)
    trainer.register_hooks([hooks.PeriodicWriter([writer], period=4)])
    trainer.train(0, stop)
    assert writer.calls == [*expected, stop, "closed"]
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter(["not a writer"])


@pytest.mark.parametrize(
    ("period", "stop", "expected"),
    [(4, 8, [3, 8]), (4, 9, [3, 7, 9]), (0, 9, [9]), (20, 9, [9])],
)
def test_evaluation(period, stop, expected):
    trainer = make()
    when = []

    def evaluate():
        when.append(trainer.iter)
        return {"bbox": {"AP": 10.0 * len(when), "AP50": torch.tensor(1.0)}, "plain": 3}

    trainer.register_hooks([hooks.EvalHook(period, evaluate)])
    trainer.train(0, stop)
    assert when == expected
    values = trainer.storage.history("bbox/AP").values()
    assert [value for value, _ in values] == [10.0 * (i + 1) for i in range(len(when))]
    assert trainer.storage.latest()["plain"][0] == 3


def test_no_evaluation_after_training_or_after_a_failure():
    def count(stop, fails_at=None, **options):
        calls = []

        class Fail(HookBase):
            def after_step(self):
                if self.trainer.iter == fails_at:
                    raise RuntimeError

        trainer = make()
        trainer.register_hooks([hooks.EvalHook(2, lambda: calls.append(1), **options), Fail()])
        try:
            trainer.train(0, stop)
        except RuntimeError:
            assert fails_at is not None
        return len(calls)

    assert count(5) == 3
    assert count(5, eval_after_train=False) == 2
    assert count(5, fails_at=2) == 1


@pytest.mark.parametrize(
    ("result", "error"), [({"AP": "high"}, ValueError), ([1.0], AssertionError)]
)
def test_evaluation_that_returns_no_numbers(result, error):
    trainer = make()
    trainer.register_hooks([hooks.EvalHook(0, lambda: result)])
    with pytest.raises(error):
        trainer.train(0, 1)


def test_metrics_of_the_last_evaluation_are_written(tmp_path):
    trainer = make()
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    trainer.register_hooks(
        [hooks.EvalHook(0, lambda: {"AP": 5.0}), hooks.PeriodicWriter([writer], period=2)]
    )
    trainer.train(0, 3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert lines[-1]["AP"] == 5.0


def test_checkpoints(tmp_path):
    trainer = make()
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 3)])
    trainer.train(0, 7)
    saved = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert saved == ["model_0000002.pth", "model_0000005.pth", "model_final.pth"]
    other = make()
    checkpointer = Checkpointer(other.model, str(tmp_path), trainer=other)
    checkpointer.resume_or_load("", resume=True)
    assert other.iter == 6
    assert torch.equal(other.model.layer.weight, trainer.model.layer.weight)


@pytest.mark.parametrize(
    ("mode", "metrics", "saved"),
    [
        ("max", [0.3, 0.4, 0.35, 0.5], [1, 3, 8]),
        ("min", [1.0, 0.8, 0.9, 0.9], [1, 3]),
        ("max", [math.nan, 0.8, 0.9, 0.9], [3, 5]),
    ],
)
def test_best_checkpoint(mode, metrics, saved):
    class FakeCheckpointer:
        def __init__(self):
            self.calls = []

        def save(self, name, iteration):
            self.calls.append((name, iteration))

    checkpointer = FakeCheckpointer()
    values = iter(metrics)
    trainer = make()
    best = hooks.BestCheckpointer(2, checkpointer, "box/AP", mode, "best")
    trainer.register_hooks([hooks.EvalHook(2, lambda: {"box": {"AP": next(values)}}), best])
    trainer.train(0, 8)
    assert checkpointer.calls == [("best", iteration) for iteration in saved]
    assert best.best_iter == saved[-1]


def test_best_checkpoint_without_its_metric():
    trainer = make()
    trainer.register_hooks([hooks.BestCheckpointer(2, None, "AP")])
    trainer.train(0, 4)
    with pytest.raises(AssertionError):
        hooks.BestCheckpointer(2, None, "AP", mode="best")


def test_learning_rate_of_a_torch_scheduler():
    trainer = make(rate=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
    hook = hooks.LRScheduler(scheduler=scheduler)
    trainer.register_hooks([hook])
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])
    state = hook.state_dict()
    other = make()
    scheduler = torch.optim.lr_scheduler.StepLR(other.optimizer, 2)
    hook = hooks.LRScheduler(other.optimizer, scheduler)
    hook.load_state_dict(state)
    assert scheduler.last_epoch == 4


def test_learning_rate_of_a_multiplier():
    trainer = make(rate=2.0)
    trainer.scheduler = LinearParamScheduler(1.0, 0.0)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, 4)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_which_learning_rate_is_logged():
    one, two = [nn.Parameter(torch.zeros(1))], [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    choose = hooks.LRScheduler.get_best_param_group_id
    assert choose(torch.optim.SGD([{"params": one, "lr": 1}, {"params": two, "lr": 2}])) == 1
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1, 2, 2)]
    assert choose(torch.optim.SGD(groups)) == 1
