"""Length of a run, learning rate schedules and factors, and sharded optimizers."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.solver import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from omegaconf import DictConfig
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


def warmup_cosine(max_iter: int, warmup_iterations: int = 1000) -> WarmupParamScheduler:
    """A linear warm-up, then a cosine down to zero (paper, Tab. 9).

    Args:
        max_iter: iterations of the run.
        warmup_iterations: how many of them warm up; 1000 in the paper.
    """
    return WarmupParamScheduler(
        CosineParamScheduler(1.0, 0.0),
        warmup_factor=0.001,
        warmup_length=_warmup_length(max_iter, warmup_iterations),
    )


def warmup_constant(max_iter: int, warmup_iterations: int = 500) -> WarmupParamScheduler:
    """A linear warm-up, then a constant rate, for ReduceLROnPlateau to lower (paper, Tab. 11).

    Args:
        max_iter: iterations of the run, at most.
        warmup_iterations: how many of them warm up; 500 in the paper.
    """
    return WarmupParamScheduler(
        LinearParamScheduler(1.0, 1.0),  # fvcore's constant one raises at the end of a run
        warmup_factor=0.001,
        warmup_length=_warmup_length(max_iter, warmup_iterations),
    )


def warmup_steps(
    max_iter: int,
    warmup_iterations: int = 2000,
    milestones: Sequence[float] = (0.67, 0.89),
    values: Sequence[float] = (1.0, 0.1, 0.01),
) -> WarmupParamScheduler:
    """A linear warm-up, then a rate that falls in steps (GLIP).

    Args:
        max_iter: iterations of the run.
        warmup_iterations: how many of them warm up; 2000 in GLIP.
        milestones: fractions of the run at which the rate falls.
        values: the factors of the base rate before, between and after them.
    """
    updates = max(max_iter, 1000)  # fvcore refuses milestones that fall together
    return WarmupParamScheduler(
        MultiStepParamScheduler(
            list(values),
            num_updates=updates,
            milestones=[int(part * updates) for part in milestones],
        ),
        warmup_factor=0.001,
        warmup_length=_warmup_length(max_iter, warmup_iterations),
    )


def _warmup_length(max_iter: int, warmup_iterations: int) -> float:
    """The share of the run that warms up: a tenth, with a warning, instead of more than half.

    fvcore warms up to the factor that the schedule has where the warm-up ends, which would be near
    0 there: the rate would never reach its full height.
    """
    if warmup_iterations <= max_iter / 2:
        return warmup_iterations / max_iter
    logger.warning(
        "lr_multiplier.warmup_iterations is %d in a run of %d: a tenth of the run warms up instead",
        warmup_iterations, max_iter,
    )  # fmt: skip
    return 0.1


class WarmupHoldCosine(ParamScheduler):
    """A linear warm-up, then a constant rate, then a cosine down to zero.

    The rate is computed from whole iterations: runs of different lengths that agree in the other
    arguments have the same rates to the bit until the decay starts.

    Args:
        max_iter: iterations of the run.
        warmup_iterations: how many of them warm up.
        decay_start: the iteration at which the cosine starts.

    Raises:
        UserError: the warm-up ends after the decay starts, or the decay starts after the run ends.
    """

    WARMUP_FACTOR = 0.001  # as in the other schedules

    def __init__(self, max_iter: int, warmup_iterations: int, decay_start: int) -> None:
        if not 0 <= warmup_iterations <= decay_start <= max_iter:
            raise UserError(
                f"lr_multiplier: expected warmup_iterations <= decay_start <= max_iter, but they "
                f"are {warmup_iterations}, {decay_start} and {max_iter}"
            )
        self.max_iter = max_iter
        self.warmup_iterations = warmup_iterations
        self.decay_start = decay_start

    def __call__(self, where: float) -> float:
        """The factor of the base rate at the fraction `where` of the run, in [0, 1]."""
        iteration = round(where * self.max_iter)
        if iteration < self.warmup_iterations:
            start = self.WARMUP_FACTOR
            return start + (1 - start) * iteration / self.warmup_iterations
        if iteration <= self.decay_start:
            return 1.0
        done = (iteration - self.decay_start) / (self.max_iter - self.decay_start)
        return 0.5 * (1 + math.cos(math.pi * done))


def iterations_of_epochs(images: int, batch_size: int, epochs: float) -> int:
    """Iterations that show every image `epochs` times: epochs x images / batch, rounded up."""
    return math.ceil(epochs * images / batch_size)


def schedule_of_epochs(
    images: Mapping[str, int], sources: Mapping[str, Any], epochs: float
) -> dict[str, Any]:
    """Keys of ``train`` for a run that sees every image of every source `epochs` times.

    Args:
        images: source -> its number of images.
        sources: source -> its node, which has a ``total_batch_size``.
        epochs: 12 in the paper's pre-training (Tab. 9).

    Returns:
        ``max_iter``, and ``source_ratios`` in iterations.
    """
    iterations = {
        str(name): iterations_of_epochs(number, sources[name].total_batch_size, epochs)
        for name, number in images.items()
    }
    return {"max_iter": sum(iterations.values()), "source_ratios": iterations}


def set_epochs(keys: DictConfig, loader: HybridLoader) -> None:
    """Set ``max_iter`` and ``eval_period`` in place, if ``train.epochs`` is given.

    A ``fast_dev_run`` keeps its own length.

    Raises:
        UserError: there are several sources, or the number of records is not known.
    """
    if keys.epochs is None or keys.get("fast_dev_run"):
        return
    (source, *others) = loader.sources.values()
    if others or source.length is None:
        raise UserError(
            "train.epochs needs one source whose number of records is known: give train.max_iter"
        )
    length = source.length, source.total_batch_size
    keys.max_iter = iterations_of_epochs(*length, keys.epochs)
    keys.eval_period = iterations_of_epochs(*length, 1)


class PrefixFactors:
    """Parameter name -> factor on its learning rate, by the beginning of the name.

    Args:
        factors: beginning -> factor; the first that fits holds, and 1 if none does.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        self.factors = dict(factors)

    def __call__(self, name: str) -> float:
        """The factor of a parameter."""
        return next((f for start, f in self.factors.items() if name.startswith(start)), 1.0)


class TextTowerFactor:
    """Parameter name -> factor on its learning rate (paper, sec. 4.1: 0.1 for the text tower).

    Args:
        factor: for the pretrained text model; what is around it, such as its projection to D,
            starts from random weights, so it learns at the full rate.
    """

    SUBMODULE = "text_tower.model"

    def __init__(self, factor: float = 0.1) -> None:
        self.factor = factor

    def __call__(self, name: str) -> float:
        """The factor of a parameter: of the text model, wherever in a model its tower is."""
        return self.factor if f".{self.SUBMODULE}." in f".{name}" else 1.0


class BiasFactor:
    """Parameter name -> factor on the learning rate of biases, 2 in GLIP.

    Args:
        factor: for every parameter with "bias" in its own name, as in GLIP: also the table of
            relative positions of Swin.
    """

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def __call__(self, name: str) -> float:
        """The factor of a parameter."""
        return self.factor if "bias" in name.rpartition(".")[2] else 1.0


class LayerDecay:
    """Parameter name -> factor that falls from layer to layer towards the backbone's input.

    Not in the paper; customary for fine-tuning pretrained transformers (BEiT, ViTDet). The last
    block has factor ``decay``, the one before it its square, and so on. A patch merging has the
    factor of the block after it; the patch embedding comes before all blocks. Everything outside
    the backbone's extractor, its output norms included, learns at the full rate.

    Args:
        decay: in (0, 1]; 1 for no decay.
        depths: blocks of each stage of timm's Swin: (2, 2, 6, 2) of Swin-T, (2, 2, 18, 2) of
            Swin-B and Swin-L.
    """

    PREFIX = "backbone.bottom_up.extractor."

    def __init__(self, decay: float, depths: Sequence[int] = (2, 2, 6, 2)) -> None:
        self.decay = decay
        self.depths = tuple(depths)

    def __call__(self, name: str) -> float:
        """The factor of a parameter.

        Raises:
            ValueError: no Swin of these depths has this parameter.
        """
        if not name.startswith(self.PREFIX):
            return 1.0
        own = name.removeprefix(self.PREFIX)
        total = sum(self.depths)
        if own.startswith("patch_embed."):
            return self.decay ** (total + 1)
        found = re.match(r"layers_(\d+)\.(?:blocks\.(\d+)|downsample)\.", own)
        stage, block = (int(found[1]), int(found[2] or 0)) if found else (len(self.depths), 0)
        if stage >= len(self.depths) or block >= self.depths[stage]:
            raise ValueError(f"LayerDecay with depths {self.depths} does not know {name}")
        return self.decay ** (total - sum(self.depths[:stage]) - block)


class Factors:
    """Parameter name -> product of the factors that several functions give."""

    def __init__(self, functions: Sequence[Callable[[str], float]]) -> None:
        self.functions = list(functions)

    def __call__(self, name: str) -> float:
        """The factor of a parameter."""
        return math.prod(function(name) for function in self.functions)


def shard_optimizer_state(optimizer: Optimizer) -> Optimizer:
    """Shard the state of an optimizer over processes: ZeRO stage 1 (arXiv 1910.02054).

    The result steps as ``optimizer`` does. Every process updates its part of the parameters and
    sends it to the others. The state dict is that of ``optimizer``, so a checkpoint loads with or
    without sharding, on any number of processes. With one process the result is ``optimizer``.

    Args:
        optimizer: has made no step; its groups hold all its settings.
    """
    if comm.get_world_size() == 1:
        return optimizer
    return ZeroRedundancyOptimizer(optimizer.param_groups, optimizer_class=type(optimizer))


def is_sharded(optimizer: Optimizer) -> bool:
    """Whether `gather_state` must be called before its ``state_dict``."""
    return isinstance(optimizer, ZeroRedundancyOptimizer)


def gather_state(optimizer: Optimizer) -> None:
    """Gather the state in the main process; all processes must call this."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)
