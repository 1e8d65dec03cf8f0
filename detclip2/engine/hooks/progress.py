"""Progress bar for training at a terminal: loss, time left and images per second."""

from typing import Any

from detectron2.engine import HookBase
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.trainer import Trainer


class ProgressBar(HookBase):
    """Shows the smoothed loss, the time left and images per second of all processes together.

    Args:
        loader: has the batch size of each source.
        description: text in front of the bar.
    """

    trainer: Trainer

    def __init__(self, loader: HybridLoader, description: str = "training") -> None:
        self.loader = loader
        self.progress = Progress(
            TextColumn(description),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%  loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} images/s  ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            refresh_per_second=2,
        )

    def before_train(self) -> None:
        """Show the bar."""
        iterations = self.trainer.max_iter
        done = self.trainer.start_iter
        self.task = self.progress.add_task("", total=iterations, completed=done, loss="", speed="")
        self.progress.start()

    def after_step(self) -> None:
        """Update the bar."""
        shown: dict[str, Any] = {}
        histories = self.trainer.storage.histories()
        if "total_loss" in histories:
            shown["loss"] = f"{histories['total_loss'].median(20):.3f}"
        if "time" in histories:
            batch_size = self.loader.sources[self.trainer.source].total_batch_size
            shown["speed"] = f"{batch_size / histories['time'].avg(20):.1f}"
        self.progress.update(self.task, completed=self.trainer.iter + 1, **shown)

    def after_train(self) -> None:
        """Leave the finished bar on the screen."""
        self.progress.stop()
