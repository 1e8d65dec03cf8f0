"""The learning rate falls, and training ends, where evaluations no longer improve (Tab. 11)."""

import logging
import math
from typing import Any

from detectron2.engine import HookBase, hooks

from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class Stagnated(BaseException):
    """Ends a training whose evaluations no longer improve.

    Not an Exception: the loop would log it with a traceback.
    """


class AutoStep(HookBase):
    """Drops the learning rate after evaluations without a new best, and ends at the lowest one.

    The paper evaluates after every epoch of ODinW. Belongs after the evaluation among the hooks,
    which gives the metric to all processes; what it has seen, and the rates that it has set, are in
    the checkpoint.

    Args:
        schedule: the hook that sets the learning rate; its rates are scaled as a whole.
        metric: what is to improve, as the evaluation names it.
        drop_after: stagnant evaluations after which the rate drops.
        stop_after: stagnant evaluations at the lowest rate after which training ends.
        factor: of a drop.
        min_lr: the lowest rate, of the part of the model that has the highest.

    Raises:
        UserError: a number that makes no sense.
    """

    def __init__(
        self,
        schedule: hooks.LRScheduler,
        metric: str = "bbox/AP",
        drop_after: int = 5,
        stop_after: int = 8,
        factor: float = 0.1,
        min_lr: float = 1e-8,
    ) -> None:
        if drop_after < 1 or stop_after < 1 or not 0 < factor < 1 or min_lr <= 0:
            raise UserError("train.auto_step: expected counts from 1, a factor in (0, 1), a rate")
        self.schedule = schedule
        self.metric = metric
        self.drop_after = drop_after
        self.stop_after = stop_after
        self.factor = factor
        self.min_lr = min_lr
        self.best = -math.inf
        self.stagnant = 0

    def after_step(self) -> None:
        """Look at the evaluation of this iteration, if there was one.

        Raises:
            Stagnated: training is over, in all processes alike.
        """
        value, when = self.trainer.storage.latest().get(self.metric, (0.0, -1))
        if when == self.trainer.iter:
            self.judge(float(value))

    def judge(self, value: float) -> None:
        """Take note of an evaluation; NaN is no improvement.

        Raises:
            Stagnated: see :meth:`after_step`.
        """
        if value > self.best:
            self.best, self.stagnant = value, 0
            return
        self.stagnant += 1
        rates = self.schedule.scheduler.base_lrs
        at_lowest = max(rates) <= self.min_lr * (1 + 1e-6)  # as products of factors are
        if at_lowest and self.stagnant >= self.stop_after:
            raise Stagnated
        if not at_lowest and self.stagnant >= self.drop_after:
            scale = max(self.factor, self.min_lr / max(rates))
            self.schedule.scheduler.base_lrs = [rate * scale for rate in rates]
            self.stagnant = 0
            logger.info(
                "%s has not improved on %.2f for %d evaluations: the learning rate drops to %.1e",
                self.metric, self.best, self.drop_after, max(rates) * scale,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and for how long it has been."""
        return {"best": self.best, "stagnant": self.stagnant}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        self.best, self.stagnant = state["best"], state["stagnant"]
