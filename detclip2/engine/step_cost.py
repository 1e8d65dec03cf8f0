"""Time and memory of a training step, measured before a long run."""

import copy
import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import nn

from detclip2.config import build, require_keys
from detclip2.data.hybrid_loader import source_nodes
from detclip2.data.sample import Sample
from detclip2.engine.learning import set_up_learning
from detclip2.utils.errors import UserError, shown

WARM_UP, MEASURED = 1, 3


@dataclass(frozen=True)
class StepCost:
    """Cost of one iteration in one process."""

    seconds: float
    memory: int | None = None
    """Bytes: the peak of a GPU; of a CPU that of the whole process; None if it is not known."""
    sent_bytes: float | None = None
    """What the process sends to others; None if it is not known."""


def step_cost(model: nn.Module, next_batch: Callable[[], list[Sample]]) -> StepCost:
    """Measure loading, forward and backward of a batch on the model's device.

    The model's gradients change; its weights do not.

    Args:
        model: maps a batch to a dict of scalar losses.
        next_batch: returns a batch.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    start = 0.0
    for step in range(WARM_UP + MEASURED):
        if step == WARM_UP:
            start = time.perf_counter()
        model.zero_grad()
        sum(model(next_batch()).values()).backward()
        if on_gpu:
            torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / MEASURED
    if on_gpu:
        return StepCost(seconds, torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return StepCost(seconds, peak * (1 if sys.platform == "darwin" else 1024))


def kept_for_backward(model: nn.Module, batch: list[Sample]) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass, without the weights.

    Most of a training's memory is this, weights, gradients and the optimizer's state. It depends
    on shapes alone and grows with the samples, so that a small batch tells of a large one, and a
    CPU of a GPU, which keeps the same tensors.

    Args:
        model: maps a batch to a dict of scalar losses.
        batch: samples of one supervision.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(batch)  # alive until all is counted, so that no address is used twice
    del losses
    return sum(kept.values())


def seconds_per_iteration(cfg: DictConfig, model: nn.Module) -> float:
    """Seconds of an iteration of ``cfg``, the mean over its sources, measured on its data.

    `model` does not change.
    """
    model = copy.deepcopy(model)
    set_up_learning(model, cfg.train)
    model.train()
    loader = build(cfg, "dataloader.train")
    loader.tokenise_by(model.phrase_tokens)
    shares = source_shares(cfg)
    seconds = 0.0
    for name, share in shares.items():
        seconds += share * step_cost(model, partial(loader.next_batch, name)).seconds
    return seconds


def source_shares(cfg: DictConfig) -> dict[str, float]:
    """Source -> its share of the iterations by ``train.source_ratios``; the sum is 1.

    Raises:
        UserError: there are several sources and no ratios, or a source has no ratio above 0.
    """
    names = source_nodes(cfg)
    ratios = cfg.train.source_ratios or {}
    if not ratios and len(names) > 1:
        raise UserError("train.source_ratios must be given; the config has several sources")
    if not ratios:
        ratios = dict.fromkeys(names, 1)
    require_keys(ratios, "train.source_ratios")
    for name in [*names, *ratios]:
        ratio = ratios.get(name)
        if not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
            raise UserError(
                f"train.source_ratios.{name} is {shown(ratio)}; expected a number above 0"
            )
    return {name: ratios[name] / sum(ratios.values()) for name in names}


def synthetic_samples(
    count: int, size: tuple[int, int], phrases: int, supervision: str, boxes: int = 10
) -> list[Sample]:
    """Samples of noise, for measuring without data.

    Args:
        count: B.
        size: (H, W).
        phrases: M of each sample; all samples share them, as categories are shared.
        supervision: "detection", "grounding" or "caption".
        boxes: N of each sample, at most M.
    """
    boxes = min(boxes, phrases)
    samples = []
    for number in range(count):
        names = [f"thing number {i}" for i in range(phrases)]
        if supervision == "caption":  # captions differ
            names = [f"{name} of image {number}" for name in names]
        sample: Sample = {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8),
            "height": size[0],
            "width": size[1],
            "image_id": number,
            "file_name": "",
            "supervision": supervision,
            "phrases": names,
            "num_positives": phrases if supervision == "caption" else boxes,
            "own_phrases_only": False,
            "not_exhaustive": torch.zeros(0, dtype=torch.int64),
        }
        if supervision != "caption":
            corners = torch.rand(boxes, 2) * torch.tensor([size[1] / 2, size[0] / 2])
            far = corners + torch.tensor([size[1] / 4, size[0] / 4])
            sample["instances"] = Instances(
                size,
                gt_boxes=Boxes(torch.cat([corners, far], dim=1)),
                gt_classes=torch.arange(boxes),
            )
        samples.append(sample)
    return samples
