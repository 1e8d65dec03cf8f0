"""ZeRO against the same optimizer with the whole state in every process."""

from itertools import pairwise

import pytest
import torch
from detectron2.engine import HookBase, hooks
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detclip2.engine.checkpoint import Checkpointer
from detclip2.engine.hooks.source_schedule import AlternateSources, SeedEachIteration
from detclip2.engine.solver import shard_optimizer_state
from detclip2.engine.trainer import NonFiniteSteps, Trainer
from tests.helpers.processes import run_processes
from tests.helpers.toy import toy_loader

ITERATIONS, STOPPED = 8, 5
BAD_STEP = 3  # where a loss is not finite, in one process


class Regression(nn.Module):
    """The mean of squares over samples, so that processes' means average to that of the batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.calls = 0

    def forward(self, samples):
        ids = torch.tensor([[sample["id"]] for sample in samples], dtype=torch.float64)
        error = self.layers(torch.sin(ids + torch.arange(6.0))) - ids % 3
        return {"loss": error.square().mean()}


class Spoil(HookBase):
    """Sets an infinite gradient after a backward pass."""

    def after_backward(self):
        if self.trainer.iter == BAD_STEP:
            next(self.trainer.model.parameters()).grad.fill_(torch.inf)


class Watch(HookBase):
    """Records the weights and how many parameters have their state here; saves in the middle."""

    def __init__(self, checkpointer):
        self.checkpointer, self.weights, self.kept = checkpointer, [], 0

    def after_step(self):
        vector = nn.utils.parameters_to_vector(self.checkpointer.model.parameters())
        self.weights.append(vector.detach().clone())
        optimizer = self.trainer.optimizer
        states = getattr(optimizer, "optim", optimizer).state.values()
        self.kept = sum(len(state) > 0 for state in states)
        if self.trainer.iter + 1 == STOPPED:
            self.checkpointer.save("model", iteration=self.trainer.iter)


def train(rank, world_size, folder, zero, resume=False, precision=None):
    """The records of Watch, from the checkpoint in the middle on if `resume`."""
    torch.manual_seed(0)
    model = Regression()
    groups = [
        {"params": [p], "weight_decay": 0.1 * i, "lr": 0.01 * (i + 1)}
        for i, p in enumerate(model.parameters())
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.95))
    optimizer = shard_optimizer_state(optimizer) if zero else optimizer
    loader = toy_loader(batch_sizes=(6,))
    parallel = DistributedDataParallel(model) if world_size > 1 else model
    trainer = Trainer(
        *(parallel, loader, optimizer, NonFiniteSteps(str(folder))),
        precision=precision,
        clip_norm=0.5,
    )
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    watch = Watch(checkpointer)
    schedule = hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.1))
    trainer.register_hooks(
        [schedule, AlternateSources(loader), SeedEachIteration(), Spoil(), watch]
    )
    checkpointer.resume_or_load("", resume=resume)
    trainer.train(trainer.iter + 1 if resume else 0, ITERATIONS)
    scale = trainer.grad_scaler.get_scale()
    return {"weights": watch.weights, "kept": watch.kept, "scale": scale}


@pytest.mark.parametrize("precision", [None, torch.float16])
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_sharded_steps_equal_unsharded_steps(tmp_path, world_size, precision):
    """With clipping, a schedule, rates by group, and a skipped step."""
    arguments = (str(tmp_path), True, False, precision)
    shared = run_processes(train, world_size, *arguments)
    (alone,) = run_processes(train, 1, str(tmp_path / "alone"), False, False, precision)
    steps = [bool(a.equal(b)) for a, b in pairwise(alone["weights"])]
    assert [i + 1 for i, same in enumerate(steps) if same] == [BAD_STEP]
    for process in shared:
        assert process["scale"] == alone["scale"]
        for ours, expected in zip(process["weights"], alone["weights"], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert sum(process["kept"] for process in shared) == alone["kept"] == 4
    assert all(process["kept"] < 4 for process in shared)


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, True), (2, True)), ((3, True), (2, True)), ((2, True), (1, True)),
     ((2, True), (3, False)), ((1, False), (3, True))],
)  # fmt: skip
@pytest.mark.processes
def test_a_checkpoint_is_resumed_by_any_number_of_processes(tmp_path, before, after):
    """(processes, with ZeRO) before and after the stop."""
    whole = run_processes(train, before[0], str(tmp_path), before[1])[0]
    resumed = run_processes(train, after[0], str(tmp_path), after[1], True)
    exact = {"rtol": 0, "atol": 0} if before == after else {"rtol": 1e-9, "atol": 1e-12}
    for process in resumed:
        assert len(process["weights"]) == ITERATIONS - STOPPED
        for ours, expected in zip(process["weights"], whole["weights"][STOPPED:], strict=True):
            torch.testing.assert_close(ours, expected, **exact)


@pytest.mark.processes
def test_the_saved_state_equals_the_plain_optimizers(tmp_path):
    states = []
    for world_size, zero in ((3, True), (1, False)):
        run_processes(train, world_size, str(tmp_path / str(zero)), zero)
        content = torch.load(tmp_path / str(zero) / "model.pth", weights_only=True)
        states.append(content["trainer"]["optimizer"])
    shared, plain = states
    assert shared["param_groups"] == plain["param_groups"]
    assert shared["state"].keys() == plain["state"].keys()
    for index, state in plain["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(shared["state"][index][name], value)
