"""Schedules, parameter groups, optimizer."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import (
    LRMultiplier,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn


def rates(scheduler, optimizer, steps):
    lrs = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def sgd(lr=5.0):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def test_warmup_then_steps():
    optimizer = sgd()
    steps = MultiStepParamScheduler([1, 0.1, 0.01], milestones=[10, 15], num_updates=20)
    scheduler = LRMultiplier(optimizer, WarmupParamScheduler(steps, 0.001, 5 / 20), max_iter=20)
    expected = [5 * (0.001 + 0.999 * i / 5) for i in range(5)]
    expected += [5.0] * 5 + [0.5] * 5 + [0.05] * 5
    assert rates(scheduler, optimizer, 19) == pytest.approx(expected)


def test_warmup_ends_on_the_schedule():
    cosine = CosineParamScheduler(1, 0)
    warm = WarmupParamScheduler(cosine, 0.5, 0.25)
    assert warm(0.0) == pytest.approx(0.5)
    assert warm(0.125) == pytest.approx((0.5 + cosine(0.25)) / 2)
    assert warm(0.6) == pytest.approx(cosine(0.6))


def test_rescaled_warmup_keeps_the_whole_schedule():
    warm = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.2, rescale_interval=True)
    assert warm(0.2) == pytest.approx(1.0)
    assert warm(0.6) == pytest.approx(0.5)


def test_constant_warmup():
    warm = WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.2, "constant")
    assert warm(0.0) == warm(0.19) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="warmup method"):
        WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.2, "sudden")


def test_multiplier_keeps_ratios_and_resumes():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 10.0}]

    def make():
        optimizer = torch.optim.SGD([dict(group) for group in groups], lr=1)
        return optimizer, LRMultiplier(optimizer, CosineParamScheduler(1, 0), max_iter=10)

    optimizer, scheduler = make()
    rates(scheduler, optimizer, 4)
    assert scheduler.get_last_lr()[1] == pytest.approx(10 * scheduler.get_last_lr()[0])
    state = scheduler.state_dict()
    assert set(state) == {"base_lrs", "last_epoch"}
    other_optimizer, other = make()
    other.load_state_dict(state)
    assert rates(other, other_optimizer, 1)[-1] == rates(scheduler, optimizer, 1)[-1]


def test_multiplier_takes_fvcore_schedulers_only():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(sgd(), lambda x: x, max_iter=3)


def solver_config(**options):
    cfg = get_cfg()
    defaults = {"MAX_ITER": 100, "WARMUP_ITERS": 10, "WARMUP_FACTOR": 0.1, "BASE_LR": 5.0}
    for key, value in {**defaults, **options}.items():
        cfg.SOLVER[key] = value
    return cfg


@pytest.mark.parametrize("end", [0.0, 0.5])
def test_cosine_from_config(end):
    optimizer = sgd()
    cfg = solver_config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=end)
    lrs = rates(build_lr_scheduler(cfg, optimizer), optimizer, 100)
    assert lrs[0] == pytest.approx(0.5)
    assert lrs[100] == pytest.approx(end)
    assert lrs[50] == pytest.approx(end + (5 - end) * (1 + math.cos(math.pi / 2)) / 2)


def test_steps_from_config():
    optimizer = sgd()
    cfg = solver_config(STEPS=(50, 80, 300), GAMMA=0.5)
    lrs = rates(build_lr_scheduler(cfg, optimizer), optimizer, 99)
    assert [lrs[i] for i in (10, 49, 50, 79, 80, 99)] == pytest.approx([5, 5, 2.5, 2.5, 1.25, 1.25])


def test_fixed_gamma_from_config():
    optimizer = sgd()
    cfg = solver_config(
        LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", GAMMA=0.1, NUM_DECAYS=3, WARMUP_ITERS=0
    )
    lrs = rates(build_lr_scheduler(cfg, optimizer), optimizer, 99)
    assert [lrs[i] for i in (0, 24, 25, 50, 99)] == pytest.approx([5, 5, 0.5, 0.05, 0.005])


def test_unknown_schedule():
    with pytest.raises(ValueError, match="NoSuch"):
        build_lr_scheduler(solver_config(LR_SCHEDULER_NAME="NoSuch"), sgd())


# Parameter groups


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.tied = nn.Linear(2, 3, bias=False)
        self.tied.weight = self.first.weight
        self.embedding = nn.Parameter(torch.zeros(4))


def options_by_name(groups, net):
    names = {parameter: name for name, parameter in net.named_parameters()}
    found = {}
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        for parameter in group["params"]:
            assert names[parameter] not in found
            found[names[parameter]] = options
    return found


def test_groups_without_options_are_one():
    net = Net()
    groups = get_default_optimizer_params(net)
    assert len(groups) == 1
    assert set(options_by_name(groups, net)) == {
        "embedding",
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
    }


def test_groups_of_norms_biases_and_names():
    net = Net()
    groups = get_default_optimizer_params(
        net,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        bias_lr_factor=2.0,
        lr_factor_func=lambda name: 0.5 if name.startswith("first") else 1.0,
        overrides={"embedding": {"lr": 9.0}},
    )
    assert options_by_name(groups, net) == {
        "embedding": {"lr": 9.0, "weight_decay": 0.1},
        "first.weight": {"lr": 0.5, "weight_decay": 0.1},
        "first.bias": {"lr": 2.0, "weight_decay": 0.1},  # overrides by name have priority
        "norm.weight": {"lr": 1.0, "weight_decay": 0.0},
        "norm.bias": {"lr": 2.0, "weight_decay": 0.0},
    }


def test_groups_refuse():
    for options in ({"bias_lr_factor": 2.0}, {"lr_factor_func": lambda name: 1.0}):
        with pytest.raises(ValueError, match="base_lr"):
            get_default_optimizer_params(Net(), **options)
    with pytest.raises(ValueError, match="bias"):
        get_default_optimizer_params(
            Net(), weight_decay_bias=0.0, overrides={"bias": {"weight_decay": 1.0}}
        )


# build_optimizer


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_optimizer_clips_each_parameter(kind):
    cfg = solver_config(MOMENTUM=0.0, WEIGHT_DECAY=0.0, BASE_LR=1.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    net = nn.Linear(3, 1)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = build_optimizer(cfg, net)
    net.weight.grad = torch.tensor([[3.0, -4.0, 0.0]])
    net.bias.grad = torch.tensor([0.25])
    optimizer.step()
    steps = [old - new for old, new in zip(before, net.parameters(), strict=True)]
    weight = [[0.5, -0.5, 0.0]] if kind == "value" else [[0.3, -0.4, 0.0]]
    torch.testing.assert_close(steps[0], torch.tensor(weight), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps[1], torch.tensor([0.25]))


def test_optimizer_options():
    cfg = solver_config(NESTEROV=True)
    optimizer = build_optimizer(cfg, Net())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]
    by_decay = {group["weight_decay"]: len(group["params"]) for group in optimizer.param_groups}
    assert by_decay == {cfg.SOLVER.WEIGHT_DECAY: 3, cfg.SOLVER.WEIGHT_DECAY_NORM: 2}
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "other"
    with pytest.raises(ValueError, match="other"):
        build_optimizer(cfg, Net())
