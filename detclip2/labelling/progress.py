"""Progress of a long run: a bar on a terminal, else a line from time to time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 60
LINES = 10
"""Lines that a short run has anyway."""


class Progress:
    """Counts what is done, with the rate and the remaining time of this process's own work.

    Args:
        total: number of images.
        done: how many of them were done before.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self.done = self.before = done
        self.start = self._last = time.monotonic()
        self._next = done + max(1, (total - done) // LINES)
        self._bar: Bar | None = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.start

    @property
    def rate(self) -> float:
        """Images a second; 0 before the first."""
        return (self.done - self.before) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        left = (self.total - self.done) / self.rate if self.rate else None
        ends = "" if left is None else f", {timedelta(seconds=round(left))} left"
        return f"{self.rate:.1f} images/s{ends}"

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Show it until the block ends."""
        console = Console(stderr=True)
        if not console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("labelling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
        )
        with Bar(*columns, console=console, transient=True) as self._bar:
            self._bar.add_task("", total=self.total, completed=self.done, what="")
            yield self
        self._bar = None

    def advance(self, number: int) -> None:
        """Count images that are done."""
        self.done += number
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=self.done, what=str(self))
            return
        now = time.monotonic()
        if self.done >= self._next or now - self._last > SECONDS_BETWEEN_LINES:
            print(f"{self.done:,} of {self.total:,} images, {self}", file=sys.stderr)
            self._last = now
            self._next = self.done + max(1, (self.total - self.before) // LINES)
