"""Learning rate over a run."""

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler


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
