"""The training loop against a plain loop."""

import copy

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.utils.events import get_event_storage
from torch import nn


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch):
        out = self.layer(batch)
        return {"square": out.square().mean(), "absolute": out.abs().mean()}


class OneLoss(Regression):
    def forward(self, batch):
        return super().forward(batch)["square"]


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand(4, 3, generator=generator)


def make(model_class=Regression, **options):
    torch.manual_seed(0)
    model = model_class()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return SimpleTrainer(model, batches(), optimizer, **options)


def reference(steps):
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for _, batch in zip(range(steps), batches(), strict=False):
        optimizer.zero_grad()
        loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.mark.parametrize("options", [{}, {"zero_grad_before_forward": True}])
def test_steps_equal_a_plain_loop(options):
    trainer = make(**options)
    trainer.train(0, 5)
    model, losses = reference(5)
    assert torch.equal(trainer.model.layer.weight, model.layer.weight)
    history = trainer.storage.history("total_loss").values()
    assert [iteration for _, iteration in history] == [0, 1, 2, 3, 4]
    assert [value for value, _ in history] == pytest.approx(losses)
    parts = [trainer.storage.history(n).latest() for n in ("square", "absolute")]
    assert sum(parts) == pytest.approx(losses[-1])
    assert {"data_time", "rank_data_time"} <= trainer.storage.histories().keys()


@pytest.mark.parametrize("options", [{}, {"async_write_metrics": True}])
def test_metrics_are_stored_periodically(options):
    trainer = make(gather_metric_period=4, **options)
    trainer.train(10, 20)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [11, 15, 19]


def test_model_that_returns_one_loss():
    trainer = make(OneLoss)
    trainer.train(0, 3)
    assert len(trainer.storage.history("total_loss").values()) == 3
    assert "square" not in trainer.storage.histories()


def test_model_is_trained_in_training_mode():
    trainer = make()
    assert trainer.model.training
    trainer.model.eval()
    with pytest.raises(AssertionError):
        trainer.train(0, 1)


def test_loss_that_is_not_finite_stops():
    trainer = make()
    trainer.model.layer.weight.data[0, 0] = float("nan")
    with pytest.raises(FloatingPointError):
        trainer.train(0, 3)
    assert trainer.iter == 0


def test_loader_can_be_replaced():
    trainer = make()
    trainer.train(0, 2)
    trainer.reset_data_loader(lambda: batches(seed=1))
    trainer.train(2, 4)
    assert trainer.iter == 4


class Recorder(HookBase):
    def __init__(self, calls, name):
        self.calls = calls
        for moment in ("before_train", "after_train", "before_step", "after_step"):
            setattr(self, moment, lambda moment=moment: self.calls.append((name, moment)))

    def after_backward(self):
        assert self.trainer.model.layer.weight.grad.abs().sum() > 0
        self.calls.append(("any", "after_backward"))


def test_hooks_run_in_order():
    calls = []
    trainer = make()
    trainer.register_hooks([Recorder(calls, "a"), None, Recorder(calls, "b")])
    trainer.train(0, 2)

    def both(moment):
        return [("a", moment), ("b", moment)]

    step = [*both("before_step"), *[("any", "after_backward")] * 2, *both("after_step")]
    assert calls == [*both("before_train"), *step, *step, *both("after_train")]
    with pytest.raises(AssertionError):
        trainer.register_hooks([lambda: None])


def test_hooks_see_the_iteration():
    seen = []

    class Look(HookBase):
        def after_step(self):
            seen.append((self.trainer.iter, get_event_storage().iter))

        def after_train(self):
            seen.append(("end", self.trainer.iter, self.trainer.storage.iter))

    class Failing(TrainerBase):
        def run_step(self):
            if self.iter == 7:
                raise RuntimeError("out of luck")

    trainer = Failing()
    trainer.register_hooks([Look()])
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.train(5, 9)
    assert seen == [(5, 5), (6, 6), ("end", 7, 7)]
    seen.clear()
    trainer.train(8, 10)
    assert seen == [(8, 8), (9, 9), ("end", 10, 10)]
    assert (trainer.start_iter, trainer.max_iter) == (8, 10)
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


class Counting(HookBase):
    def __init__(self):
        self.count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_resumed_training_equals_an_uninterrupted_one():
    first = make()
    first.register_hooks([Counting()])
    first.train(0, 4)
    state = copy.deepcopy({"trainer": first.state_dict(), "model": first.model.state_dict()})

    second = make()
    hook = Counting()
    second.register_hooks([hook])
    second.model.load_state_dict(state["model"])
    second.load_state_dict(state["trainer"])
    assert second.iter == 4
    assert hook.count == 4
    for _ in range(4):
        next(second._data_loader_iter)
    second.train(4, 7)
    assert torch.equal(second.model.layer.weight, reference(7)[0].layer.weight)


def test_state_of_an_absent_hook_is_ignored():
    first = make()
    first.register_hooks([Counting()])
    first.train(0, 1)
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.iter == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_mixed_precision_needs_a_gpu():
    model = Regression()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = AMPTrainer(model, batches(), optimizer, grad_scaler=scaler)
    with pytest.raises(AssertionError, match=r"CUDA|GPU"):
        trainer.train(0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_mixed_precision(precision):
    class Watching(Regression):
        def forward(self, batch):
            self.seen = self.layer(batch.cuda()).dtype
            return super().forward(batch.cuda())

    model = Watching().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = AMPTrainer(model, batches(), optimizer, precision=precision, log_grad_scaler=True)
    before = model.layer.weight.detach().clone()
    trainer.train(0, 5)
    assert model.seen == precision
    assert not torch.equal(before, model.layer.weight)
    assert len(trainer.storage.history("[metric]grad_scaler").values()) == 5
    other = AMPTrainer(model, batches(), optimizer)
    other.load_state_dict(trainer.state_dict())
    assert other.grad_scaler.get_scale() == trainer.grad_scaler.get_scale()
