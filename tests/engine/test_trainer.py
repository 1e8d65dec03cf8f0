import json

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from detclip2.engine.hooks.source_schedule import AlternateSources, SeedEachIteration
from detclip2.engine.trainer import NonFiniteSteps, Trainer
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes
from tests.helpers.toy import ToyModel, toy_loader


class Model(ToyModel):
    """Returns `value` instead of a finite loss if `when` is true."""

    def __init__(self, when=lambda call: False, value=torch.nan):
        super().__init__()
        self.when, self.value = when, value
        self.norm = nn.BatchNorm1d(3)

    def forward(self, samples):
        losses = super().forward(samples)
        bad = self.when(len(self.seen) - 1)
        x = torch.rand(4, 3) + (self.value if bad else 0)
        losses["loss_c"] = self.norm(x).square().mean() * self.weight.sum()
        return losses


def make(folder, model=None, loader=None, **settings):
    torch.manual_seed(0)
    model = model or Model()
    loader = loader or toy_loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    nonfinite = NonFiniteSteps(str(folder), settings.pop("max_in_a_row", 3))
    trainer = Trainer(model, loader, optimizer, nonfinite, **settings)
    trainer.register_hooks([AlternateSources(loader), SeedEachIteration()])
    return trainer


class Weights(HookBase):
    def __init__(self):
        self.after = []

    def after_step(self):
        self.after.append(self.trainer.model.weight.detach().clone())


def kept(folder):
    return [json.loads(line) for line in (folder / "nonfinite.json").read_text().splitlines()]


def test_a_source_from_which_nothing_learns_is_reported(tmp_path):
    trainer = make(tmp_path)
    trainer.model.forward = lambda samples: {}
    with pytest.raises(UserError, match=r"source '\w+' gives no loss: nothing that learns reads"):
        trainer.compute_gradients(trainer.data_loader.next_batch())


def test_losses_that_reach_nothing_that_learns_are_reported(tmp_path):
    """As of a source whose losses read only what is frozen."""
    trainer = make(tmp_path)
    trainer.model.forward = lambda samples: {"loss_a": torch.ones(())}
    with pytest.raises(UserError, match=r"source '\w+' gives no loss: nothing that learns reads"):
        trainer.compute_gradients(trainer.data_loader.next_batch())


def test_a_step_is_plain_gradient_descent(tmp_path):
    """Against an explicit computation."""
    trainer = make(tmp_path, clip_norm=0.5)
    torch.manual_seed(0)
    model, loader = Model(), toy_loader()
    schedule, seeds = AlternateSources(loader), SeedEachIteration()
    schedule.trainer = seeds.trainer = trainer
    momentum = [torch.zeros_like(p) for p in model.parameters()]
    for iteration in range(4):
        trainer.iter = iteration
        schedule.before_step()
        seeds.before_step()
        loss = sum(model(loader.next_batch()).values())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = np.sqrt(sum(float(g.square().sum()) for g in gradients))
        with torch.no_grad():
            for p, m, g in zip(model.parameters(), momentum, gradients, strict=True):
                m.mul_(0.9).add_(g * min(1.0, 0.5 / (norm + 1e-6)))
                p.sub_(0.1 * m)
    trainer.train(0, 4)
    for own, expected in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, expected)
    assert trainer.storage.history("grad_norm").latest() == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_step_with_a_non_finite_loss_is_skipped_and_reported(tmp_path, value, caplog):
    weights = Weights()
    trainer = make(tmp_path, Model(when=lambda call: call in (2, 3, 6), value=value))
    trainer.register_hooks([weights])
    trainer.train(0, 8)
    same = [bool(torch.equal(a, b)) for a, b in zip(weights.after, weights.after[1:], strict=False)]
    assert same == [False, True, True, False, False, True, False]
    assert torch.isfinite(trainer.model.norm.running_mean).all()
    assert trainer.nonfinite.total == 3
    lines = kept(tmp_path)
    assert [line["iteration"] for line in lines] == [2, 3, 6]
    for line in lines:
        (process,) = line["processes"]
        ids = [sample["image_id"] for sample in process["samples"]]
        assert ids == trainer.model.seen[line["iteration"]]
        assert process["losses"]["loss_c"] == "nan"
    assert caplog.text.count("is skipped, its loss") == 3
    assert trainer.storage.history("nonfinite_steps").latest() == 3


def test_a_step_with_a_non_finite_gradient_is_skipped(tmp_path):
    class Root(Model):
        def forward(self, samples):
            losses = super().forward(samples)
            losses["loss_root"] = (self.weight[0] - self.weight[0].detach()).abs().sqrt()
            return losses

    trainer = make(tmp_path, Root(), max_in_a_row=2)
    with pytest.raises(UserError, match="2 times in a row, last at iteration 1"):
        trainer.train(0, 5)
    assert kept(tmp_path)[0]["gradient_norm"] == "nan"
    assert kept(tmp_path)[0]["parameters"] == ["weight"]
    assert torch.equal(trainer.model.weight, torch.zeros(3))


def test_too_many_skipped_steps_in_a_row_end_the_training(tmp_path):
    trainer = make(tmp_path, Model(when=lambda call: call in (0, 1) or call > 3))
    with pytest.raises(
        UserError, match=r"3 times in a row, last at iteration 6: .*nonfinite\.json"
    ):
        trainer.train(0, 20)
    assert [line["iteration"] for line in kept(tmp_path)] == [0, 1, 4, 5, 6]


def one_is_not_finite(rank, world_size, folder):
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Model(when=lambda call: rank == 1 and call == 1))
    loader = toy_loader(batch_sizes=(2 * world_size, world_size))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, loader, optimizer, NonFiniteSteps(folder))
    weights = []

    class Watch(HookBase):
        def after_step(self):
            weights.append(self.trainer.model.module.weight.detach().clone())

    trainer.register_hooks([AlternateSources(loader), SeedEachIteration(), Watch()])
    trainer.train(0, 4)
    return {"weights": weights, "total": trainer.nonfinite.total, "seen": model.module.seen}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_all_processes_skip_a_step_together(tmp_path, world_size):
    processes = run_processes(one_is_not_finite, world_size, str(tmp_path))
    first, *others = processes
    for other in others:
        assert first["total"] == other["total"] == 1
        for a, b in zip(first["weights"], other["weights"], strict=True):
            assert torch.equal(a, b)
    assert torch.equal(first["weights"][0], first["weights"][1])
    assert not torch.equal(first["weights"][1], first["weights"][2])
    (line,) = kept(tmp_path)
    names = [[sample["image_id"] for sample in p["samples"]] for p in line["processes"]]
    assert names == [process["seen"][1] for process in processes]


def test_mixed_precision_on_a_cpu_scales_and_resumes(tmp_path):
    """float16 with a loss that overflows: the scale falls, and a resumed run restores it."""
    trainer = make(tmp_path, Model(), precision=torch.float16)
    assert trainer.grad_scaler.get_scale() == 2.0**16
    trainer.train(0, 3)
    trainer.grad_scaler.update(8.0)
    state = trainer.state_dict()
    resumed = make(tmp_path, Model(), precision=torch.float16)
    resumed.load_state_dict(state)
    assert resumed.grad_scaler.get_scale() == 8.0
    assert resumed.grad_scaler.state_dict() == state["grad_scaler"]


@pytest.mark.parametrize(("before", "after"), [(None, torch.float16), (torch.float16, None)])
def test_the_precision_may_change_on_resume(tmp_path, before, after):
    trainer = make(tmp_path, precision=before)
    trainer.train(0, 2)
    resumed = make(tmp_path, precision=after)
    resumed.load_state_dict(trainer.state_dict())
    resumed.train(2, 4)
    assert resumed.iter == 4


def test_an_overflow_of_float16_lowers_the_scale_and_does_not_count_as_skipped(tmp_path):
    class Large(Model):
        def forward(self, samples):
            return {"loss": (self.weight + 1).sum().half() * 100}

    trainer = make(tmp_path, Large(), precision=torch.float16)
    before = trainer.model.weight.detach().clone()
    trainer.train(0, 1)
    assert trainer.grad_scaler.get_scale() == 2.0**15
    assert torch.equal(trainer.model.weight, before)
    assert trainer.nonfinite.total == 0


def test_counts_continue_after_a_resume(tmp_path):
    trainer = make(tmp_path, Model(when=lambda call: call == 1))
    trainer.train(0, 2)
    resumed = make(tmp_path, Model(when=lambda call: True))
    resumed.load_state_dict(trainer.state_dict())
    assert (resumed.nonfinite.total, resumed.nonfinite.in_a_row) == (1, 1)
    with pytest.raises(UserError, match="3 times in a row, last at iteration 3"):
        resumed.train(2, 10)


def test_reads_the_state_of_a_plain_trainer(tmp_path):
    trainer = make(tmp_path)
    trainer.train(0, 2)
    state = trainer.state_dict()
    del state["grad_scaler"], state["nonfinite"]
    resumed = make(tmp_path)
    resumed.load_state_dict(state)
    assert resumed.iter == trainer.iter
