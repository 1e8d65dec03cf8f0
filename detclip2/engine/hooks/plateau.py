"""Reduce the learning rate, then stop, when evaluations stop improving (paper, Tab. 11)."""

import logging
import math
from typing import Any

from detectron2.engine import HookBase, SimpleTrainer, hooks

from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """Ends a training whose evaluations no longer improve.

    Not an Exception: the loop would log it with a traceback.
    """


class ReduceLROnPlateau(HookBase):
    """Reduces the learning rate after evaluations without a new best, and stops at the lowest one.

    The paper evaluates after every epoch of ODinW. Register it after the evaluation, which gives
    the metric to all processes. The checkpoint has its counts and the rates that it has set.

    Args:
        schedule: the hook that sets the learning rate; its rates are scaled as a whole.
        metric: the result of the evaluation to improve; higher is better.
        patience: stagnant evaluations after which the rate is reduced.
        early_stopping_patience: stagnant evaluations at the lowest rate after which training ends.
        factor: multiplies the rate at a reduction.
        min_lr: the lowest rate, of the parameter group with the highest.

    Raises:
        UserError: a number is out of range.
    """

    trainer: SimpleTrainer

    def __init__(
        self,
        schedule: hooks.LRScheduler,
        metric: str = "bbox/AP",
        patience: int = 5,
        early_stopping_patience: int = 8,
        factor: float = 0.1,
        min_lr: float = 1e-8,
    ) -> None:
        counts = (patience, early_stopping_patience)
        if min(counts) < 1 or not 0 < factor < 1 or min_lr <= 0:
            raise UserError(
                "train.reduce_lr_on_plateau: expected patience from 1, a factor in (0, 1), a rate"
            )
        self.schedule = schedule
        self.metric = metric
        self.patience = patience
        self.early_stopping_patience = early_stopping_patience
        self.factor = factor
        self.min_lr = min_lr
        self.best = -math.inf
        self.stagnant = 0

    def after_step(self) -> None:
        """Judge the evaluation of this iteration, if there was one.

        Raises:
            EarlyStop: training ends, in all processes.
        """
        value, when = self.trainer.storage.latest().get(self.metric, (0.0, -1))
        if when == self.trainer.iter:
            self.judge(float(value))

    def judge(self, value: float) -> None:
        """Count an evaluation; NaN is no improvement.

        Raises:
            EarlyStop: see `after_step`.
        """
        if value > self.best:
            self.best, self.stagnant = value, 0
            return
        self.stagnant += 1
        rates = self.schedule.scheduler.base_lrs
        at_lowest = max(rates) <= self.min_lr * (1 + 1e-6)  # rounding of products
        if at_lowest and self.stagnant >= self.early_stopping_patience:
            raise EarlyStop
        if not at_lowest and self.stagnant >= self.patience:
            scale = max(self.factor, self.min_lr / max(rates))
            self.schedule.scheduler.base_lrs = reduced = [rate * scale for rate in rates]
            for group, rate in zip(self.trainer.optimizer.param_groups, reduced, strict=True):
                group["initial_lr"] = rate  # from which a resumed run makes its schedule
            self.stagnant = 0
            logger.info(
                "%s has not improved on %.2f for %d evaluations: learning rate is reduced to %.1e",
                self.metric, self.best, self.patience, max(rates) * scale,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The best value, and the number of evaluations since."""
        return {"best": self.best, "stagnant": self.stagnant}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts of a checkpoint."""
        self.best, self.stagnant = state["best"], state["stagnant"]
