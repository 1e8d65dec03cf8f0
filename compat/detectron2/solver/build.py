"""Optimizer and schedule, from a config."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, WarmupParamScheduler

__all__ = ["build_lr_scheduler", "build_optimizer", "get_default_optimizer_params"]

_NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD, which clips gradients if `cfg.SOLVER.CLIP_GRADIENTS.ENABLED`."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    if solver.CLIP_GRADIENTS.ENABLED:
        clip = _gradient_clipper(solver.CLIP_GRADIENTS.clone())
        optimizer.register_step_pre_hook(clip)
    return optimizer


def _gradient_clipper(options: CfgNode) -> Callable:
    """A hook that clips the gradient of each parameter on its own, by value or by norm."""
    if options.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"Unknown type of gradient clipping: {options.CLIP_TYPE}")

    def clip(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if options.CLIP_TYPE == "norm":
                    nn.utils.clip_grad_norm_(parameter, options.CLIP_VALUE, options.NORM_TYPE)
                else:
                    nn.utils.clip_grad_value_(parameter, options.CLIP_VALUE)

    return clip


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """The parameters that need a gradient, in groups of equal options, for a torch optimizer.

    None means the optimizer's default.

    Args:
        model: whose parameters.
        base_lr: learning rate.
        weight_decay: weight decay.
        weight_decay_norm: weight decay of normalisation layers.
        bias_lr_factor: times `base_lr` is the learning rate of biases.
        weight_decay_bias: weight decay of biases.
        lr_factor_func: times `base_lr` is the learning rate; called with the parameter's full name.
        overrides: options by the last part of a parameter's name, with the highest priority.

    Raises:
        ValueError: a factor without `base_lr`, or `overrides` of "bias" beside the arguments above.
    """
    scales_bias = bias_lr_factor is not None and bias_lr_factor != 1.0
    if base_lr is None and (scales_bias or lr_factor_func is not None):
        raise ValueError("bias_lr_factor and lr_factor_func require base_lr")
    defaults = _without_none(lr=base_lr, weight_decay=weight_decay)
    bias_lr = base_lr * bias_lr_factor if scales_bias else None
    of_bias = _without_none(lr=bias_lr, weight_decay=weight_decay_bias)
    overrides = dict(overrides or {})
    if of_bias:
        if "bias" in overrides:
            raise ValueError(
                "The options of 'bias' are given twice, in overrides and by the arguments of bias."
            )
        overrides["bias"] = of_bias

    groups: dict[tuple, dict[str, Any]] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            options = dict(defaults)
            if isinstance(module, _NORM_LAYERS) and weight_decay_norm is not None:
                options["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                options["lr"] *= lr_factor_func(f"{module_name}.{name}")
            options.update(overrides.get(name, {}))
            group = groups.setdefault(tuple(options.items()), {**options, "params": []})
            group["params"].append(parameter)
    return list(groups.values())


def _without_none(**options) -> dict[str, float]:
    return {name: value for name, value in options.items() if value is not None}


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule `cfg.SOLVER.LR_SCHEDULER_NAME`, with warm-up.

    Raises:
        ValueError: there is no schedule of that name.
    """
    solver = cfg.SOLVER
    warmup_length = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
    schedule = WarmupParamScheduler(
        _schedule(solver),
        solver.WARMUP_FACTOR,
        warmup_length,
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def _schedule(solver: CfgNode):
    name, last = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= last]
        if len(steps) < len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS contains values larger than SOLVER.MAX_ITER, which are ignored."
            )
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        return MultiStepParamScheduler(values, milestones=steps, num_updates=last)
    if name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end <= 1.0, f"SOLVER.BASE_LR_END is not between 0 and BASE_LR: {end}"
        return CosineParamScheduler(1, end)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0, num_decays=solver.NUM_DECAYS, gamma=solver.GAMMA, num_updates=last
        )
    raise ValueError(f"Unknown LR scheduler: {name}")
