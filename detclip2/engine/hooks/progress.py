"""Progress of trainings and evaluations for a person: bars at a terminal, lines elsewhere."""

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.trainer import Trainer

LINES = 10  # of a training, where there is no terminal


class ProgressBar(HookBase):
    """Shows the smoothed loss, the time left and images per second of all processes together.

    Args:
        loader: has the batch size of each source.
        description: text in front of the bar.
        console: where to show it; stdout if None.
    """

    trainer: Trainer

    def __init__(
        self, loader: HybridLoader, description: str = "training", console: Console | None = None
    ) -> None:
        self.loader = loader
        self.description = description
        # Not the stdout of later, which evaluations redirect.
        self.progress = bars(console or Console(file=sys.stdout))

    def before_train(self) -> None:
        """Show the bar."""
        self.first, self.total = self.trainer.start_iter, self.trainer.max_iter
        self.task = self.progress.add_task(
            self.description, total=self.total, completed=self.first, loss="", speed="", note=""
        )
        self.progress.start()

    def after_step(self) -> None:
        """Update the bar; without a terminal, print a line at each tenth of the training."""
        shown: dict[str, Any] = {}
        histories = self.trainer.storage.histories()
        if "total_loss" in histories:
            shown["loss"] = f"{histories['total_loss'].median(20):.3f}"
        if "time" in histories:
            batch_size = self.loader.sources[self.trainer.source].total_batch_size
            shown["speed"] = f"{batch_size / histories['time'].avg(20):.1f}"
        fields = {**self.progress.tasks[self.task].fields, **shown}
        note = f"loss {fields['loss']}  {fields['speed']} images/s"
        done = self.trainer.iter + 1
        self.progress.update(self.task, completed=done, note=note, **shown)
        if self.progress.disable and done * LINES // self.total > (done - 1) * LINES // self.total:
            left = self.progress.tasks[self.task].time_remaining
            time = "" if left is None else f", {timedelta(seconds=int(left))} left"
            self.say(f"{self.description}: {done} of {self.total} iterations, {note}{time}")

    def watch(self, loader: Any) -> "Watched":
        """A test loader of which this shows the progress."""
        return Watched(loader, self.progress)

    def report(self, results: Mapping[str, Any]) -> None:
        """Print the AP of an evaluation."""
        flat = flatten_results_dict(results)
        known = [name for name in ("AP", "AP50") if f"bbox/{name}" in flat]
        numbers = ", ".join(f"{name} {flat[f'bbox/{name}']:.1f}" for name in known)
        if numbers:
            done = min(self.trainer.iter + 1, self.total)
            self.say(f"after {done} iterations: {numbers}")

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self.progress.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def after_train(self) -> None:
        """Leave the finished bar on the screen."""
        self.progress.stop()


class Watched:
    """A loader with a length, of which a bar shows the progress while it is read.

    Args:
        loader: the loader.
        progress: from `bars`.
    """

    def __init__(self, loader: Any, progress: Progress) -> None:
        self.loader = loader
        self.progress = progress

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        task = self.progress.add_task("measuring", total=len(self), note="")
        try:
            for batch in self.loader:
                yield batch
                self.progress.advance(task)
        finally:
            self.progress.remove_task(task)


def bars(console: Console) -> Progress:
    """Bars with a text ``note`` behind each; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%  {task.fields[note]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        refresh_per_second=2,
        disable=not console.is_terminal,
    )
