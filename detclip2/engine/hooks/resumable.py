"""Hooks of Detectron2 whose state survives a resume."""

import logging
import math
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm

logger = logging.getLogger(__name__)


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
