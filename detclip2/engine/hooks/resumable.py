"""Hooks of Detectron2 whose state survives a resume."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class ResumableEvalHook(hooks.EvalHook):
    """Detectron2's EvalHook, which repeats an evaluation that a stop has cut off.

    A checkpoint of an iteration may be written before the evaluation of that iteration, or during
    it. It has the iteration of the last evaluation, so that a resumed run knows which one is owed.

    Args:
        eval_period: iterations; 0 evaluates at the end of the training alone.
        eval_function: see Detectron2.
        judges: hooks that read the results, in the order in which they are registered.
    """

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Any],
        judges: Sequence[HookBase] = (),
    ) -> None:
        super().__init__(eval_period, eval_function)
        self.period = eval_period
        self.judges = judges
        self.evaluated: int | None = None
        """The iteration of the last evaluation, -1 before the first one; None: not known."""

    def before_train(self) -> None:
        """Repeat the evaluation that the checkpoint lacks."""
        super().before_train()
        trainer, start = self.trainer, self.trainer.start_iter
        if start == 0:
            self.evaluated = -1
        # Former checkpoints do not tell; their evaluations count as done.
        elif self.evaluated is not None and self.evaluated < start - 1 and self._due(start - 1):
            logger.info("the evaluation after iteration %d is repeated", start - 1)
            trainer.iter = trainer.storage.iter = start - 1
            for hook in (self, *self.judges):
                hook.after_step()
            trainer.iter = trainer.storage.iter = start

    def after_step(self) -> None:
        """Evaluate, if the period ends."""
        super().after_step()
        if self._due(self.trainer.iter):
            self.evaluated = self.trainer.iter

    def _due(self, iteration: int) -> bool:
        number = iteration + 1  # the last one is evaluated after the training
        return self.period > 0 and number % self.period == 0 and number != self.trainer.max_iter

    def state_dict(self) -> dict[str, Any]:
        """The iteration of the last evaluation."""
        return {} if self.evaluated is None else {"evaluated": self.evaluated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has given."""
        self.evaluated = state["evaluated"]


class ResumableBestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer, with the best metric in the checkpoint.

    Without it the first evaluation after a resume would count as the best, however bad.
    """

    val_metric: str

    def __init__(self, eval_period: int, checkpointer: Any, val_metric: str, **kwargs: Any) -> None:
        super().__init__(eval_period, checkpointer, val_metric, **kwargs)
        self.val_metric = val_metric

    def state_dict(self) -> dict[str, Any]:
        """The best metric and its iteration, for a checkpoint.

        Detectron2's hook writes the best checkpoint before it stores the metric, so the latest
        metric counts too. Higher must be better.
        """
        best = (self.best_metric, self.best_iter)
        metric, iteration = self.trainer.storage.latest().get(self.val_metric, (None, None))
        is_number = metric is not None and math.isfinite(metric)
        if is_number and (best[0] is None or metric > best[0]):
            best = (metric, iteration)
        if best[0] is None:
            return {}
        return {"name": self.val_metric, "metric": float(best[0]), "iteration": int(best[1])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best metric, if this run keeps the same one."""
        name = state.get("name", "bbox/AP")  # older checkpoints have no name
        if name != self.val_metric:
            logger.warning(
                "the checkpoint has the best %s, and this run keeps the best %s: it starts anew",
                name, self.val_metric,
            )  # fmt: skip
            return
        self.best_metric, self.best_iter = state["metric"], state["iteration"]


class ResumablePeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's PeriodicCheckpointer, which also deletes checkpoints from before a resume."""

    def before_train(self) -> None:
        """List existing checkpoints."""
        super().before_train()
        if not comm.is_main_process():
            self.max_to_keep = None  # the main process deletes
        folder = Path(self.checkpointer.save_dir)
        older = sorted(folder.glob(f"{self.file_prefix}_{'[0-9]' * 7}.pth"))
        start = self.trainer.start_iter
        self.recent_checkpoints = [str(p) for p in older if int(p.stem[-7:]) < start]
