"""fvcore's schedulers, with warm-up, for a torch optimizer."""

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A scheduler whose first part is replaced by a warm-up."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        """Replace the beginning of a scheduler by a warm-up.

        Args:
            scheduler: what comes after the warm-up.
            warmup_factor: the warm-up starts at this part of the scheduler's first value.
            warmup_length: part of the training, in [0, 1].
            warmup_method: "linear", up to the value that the scheduler has then, or "constant".
            rescale_interval: whether the scheduler is squeezed into the rest of the training; if
                not, its beginning is lost.
        """
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            end = scheduler(0.0 if rescale_interval else warmup_length)
            warmup = LinearParamScheduler(start, end)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        else:
            raise ValueError(f"Unknown warmup method: {warmup_method}")
        rest = "rescaled" if rescale_interval else "fixed"
        super().__init__(
            schedulers=[warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=("rescaled", rest),
        )


class LRMultiplier(LRScheduler):
    """Sets each learning rate to its initial value times the value of a fvcore scheduler."""

    def __init__(
        self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        """`max_iter` is the length of the training, `last_iter` the last finished iteration."""
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler, and is {multiplier}.")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[float]:
        done = self.last_epoch / self._max_iter
        factor = self._multiplier(done)
        return [factor * initial for initial in self.base_lrs]

    def state_dict(self) -> dict:
        """The state; the schedule itself comes from the config."""
        return {name: getattr(self, name) for name in ("base_lrs", "last_epoch")}
