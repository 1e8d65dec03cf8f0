"""Hooks of Detectron2 that forget, where a run is resumed, what they have done before it."""

import math
from pathlib import Path
from typing import Any

from detectron2.engine import hooks
from detectron2.utils import comm


class ResumableBestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, which knows the best metric so far also after a resume.

    Without it the first evaluation after a resume would be the best again, however bad.
    """

    val_metric: str

    def __init__(self, eval_period: int, checkpointer: Any, val_metric: str, **kwargs: Any) -> None:
        super().__init__(eval_period, checkpointer, val_metric, **kwargs)
        self.val_metric = val_metric

    def state_dict(self) -> dict[str, Any]:
        """The best metric and its iteration, for a checkpoint.

        This is called while the best checkpoint is being written, when Detectron2's hook has not
        taken note of the metric yet: so the last one counts too. The metric must be one of which
        more is better.
        """
        best = (self.best_metric, self.best_iter)
        metric, iteration = self.trainer.storage.latest().get(self.val_metric, (None, None))
        is_number = metric is not None and math.isfinite(metric)
        if is_number and (best[0] is None or metric > best[0]):
            best = (metric, iteration)
        return {} if best[0] is None else {"metric": float(best[0]), "iteration": int(best[1])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Only a better metric will do from now on."""
        self.best_metric, self.best_iter = state["metric"], state["iteration"]


class ResumablePeriodicCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's, which also deletes old checkpoints that were written before a resume."""

    def before_train(self) -> None:
        """Take note of the checkpoints that are there."""
        super().before_train()
        if not comm.is_main_process():
            self.max_to_keep = None  # the main process deletes
        folder = Path(self.checkpointer.save_dir)
        older = sorted(folder.glob(f"{self.file_prefix}_{'[0-9]' * 7}.pth"))
        start = self.trainer.start_iter
        self.recent_checkpoints = [str(p) for p in older if int(p.stem[-7:]) < start]
