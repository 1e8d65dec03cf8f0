"""How long a run is, and its learning rate over it."""

import math
from collections.abc import Mapping
from typing import Any

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, LinearParamScheduler
from omegaconf import DictConfig

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.data.io.shards import ImageTextShards
from detclip2.utils.errors import UserError


def warmup_cosine(max_iter: int, warmup_iterations: int = 1000) -> WarmupParamScheduler:
    """A linear warm-up, then a cosine down to zero (paper, Tab. 9).

    Args:
        max_iter: iterations of the run.
        warmup_iterations: how many of them warm up; 1000 in the paper.
    """
    return WarmupParamScheduler(
        CosineParamScheduler(1.0, 0.0),
        warmup_factor=0.001,
        warmup_length=min(warmup_iterations / max_iter, 1.0),
    )


def warmup_constant(max_iter: int, warmup_iterations: int = 500) -> WarmupParamScheduler:
    """A linear warm-up, then a constant rate, for AutoStep to lower (paper, Tab. 11).

    Args:
        max_iter: iterations of the run, at most.
        warmup_iterations: how many of them warm up; 500 in the paper.
    """
    return WarmupParamScheduler(
        LinearParamScheduler(1.0, 1.0),  # fvcore's constant one refuses the end of a run
        warmup_factor=0.001,
        warmup_length=min(warmup_iterations / max_iter, 1.0),
    )


def iterations_of_epochs(images: int, batch_size: int, epochs: float) -> int:
    """Iterations that show every image `epochs` times: epochs x images / batch, rounded up."""
    return math.ceil(epochs * images / batch_size)


def schedule_of_epochs(
    images: Mapping[str, int], sources: Mapping[str, Any], epochs: float
) -> dict[str, Any]:
    """The keys of ``train`` by which every image of every source is seen `epochs` times.

    Args:
        images: source -> its number of images.
        sources: source -> its node, with the ``total_batch_size`` of its own.
        epochs: 12 in the paper's pre-training (Tab. 9).

    Returns:
        ``max_iter`` and ``source_ratios``, whose numbers are iterations.
    """
    iterations = {
        str(name): iterations_of_epochs(number, sources[name].total_batch_size, epochs)
        for name, number in images.items()
    }
    return {"max_iter": sum(iterations.values()), "source_ratios": iterations}


def set_epochs(keys: DictConfig, loader: HybridLoader) -> None:
    """Let ``train.epochs``, if it is given, say ``max_iter`` and ``eval_period``, in place.

    Not of a ``fast_dev_run``, whose length is its own.

    Raises:
        UserError: there are several sources, or how many records there are is not known.
    """
    if keys.epochs is None or keys.get("fast_dev_run"):
        return
    (source, *others) = loader.sources.values()
    if others or isinstance(source.records, ImageTextShards):
        raise UserError("train.epochs needs one source that is not of shards: give train.max_iter")
    length = len(source.records), source.total_batch_size
    keys.max_iter = iterations_of_epochs(*length, keys.epochs)
    keys.eval_period = iterations_of_epochs(*length, 1)
