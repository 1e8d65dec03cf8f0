"""Source of each iteration's batch (paper, sec. 3.4)."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.trainer import Trainer
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)


class SourceSchedule:
    """One source per iteration, in given proportions and a seeded order.

    The paper gives neither proportions nor an order of its sources. Here every ``block`` iterations
    contain each source's share of them, shuffled; shares are rounded by Webster's method, so that
    they are exact over time. The choice depends on the iteration alone, so all processes agree
    without communication, and a resumed run continues as before.

    Args:
        ratios: source -> its iterations, relative to the others.
        seed: of the order.
        block: iterations in which the shares are kept.
        starts: source -> its first iteration, 0 by default; before it the others share. The paper
            starts from trained towers. From scratch, captions help only once regions are
            discriminative.

    Raises:
        UserError: a ratio is negative or not a number, or none is above zero; a start is negative
            or of an unknown source, or no source starts at 0.
    """

    def __init__(
        self,
        ratios: Mapping[str, float],
        seed: int = 0,
        block: int = 100,
        starts: Mapping[str, int] | None = None,
    ) -> None:
        numbers = [r for r in ratios.values() if isinstance(r, int | float) and 0 <= r < math.inf]
        if len(numbers) < len(ratios) or sum(numbers) <= 0:
            raise UserError(f"train.source_ratios must be positive numbers, not {dict(ratios)}")
        self.ratios = {name: ratio for name, ratio in ratios.items() if ratio > 0}
        self.starts = dict.fromkeys(self.ratios, 0) | dict(starts or {})
        self._check_starts(ratios)
        self.seed = seed
        self.block = block
        self._phases = [
            (begin, _Turns({n: r for n, r in self.ratios.items() if self.starts[n] <= begin}))
            for begin in sorted({self.starts[name] for name in self.ratios})
        ]
        self._order: tuple[tuple[int, int], list[str]] | None = None

    def _check_starts(self, ratios: Mapping[str, float]) -> None:
        if unknown := set(self.starts) - set(ratios):
            raise UserError(f"train.source_starts names {sorted(unknown)}, which are no sources")
        if not all(isinstance(start, int) and start >= 0 for start in self.starts.values()):
            raise UserError(f"train.source_starts must be iterations from 0 on, not {self.starts}")
        if 0 not in [self.starts[name] for name in self.ratios]:
            raise UserError("train.source_starts must leave one source that starts at iteration 0")

    def source_of(self, iteration: int) -> str:
        """The source of an iteration, counted from 0."""
        begin, turns = [phase for phase in self._phases if phase[0] <= iteration][-1]
        block, position = divmod(iteration - begin, self.block)
        if self._order is None or self._order[0] != (begin, block):
            names = turns.between(block * self.block, (block + 1) * self.block)
            seed = [self.seed, block] if begin == 0 else [self.seed, block, begin]
            np.random.default_rng(seed).shuffle(names)
            self._order = ((begin, block), names)
        return self._order[1][position]

    def state_dict(self) -> dict[str, Any]:
        """The settings that decide the order."""
        return {
            "ratios": self.ratios,
            "starts": self.starts,
            "seed": self.seed,
            "block": self.block,
        }


class _Turns:
    """Turns of each source among the first iterations, by Webster's method."""

    def __init__(self, ratios: Mapping[str, float]) -> None:
        self.names = list(ratios)
        self.shares = np.array(list(ratios.values())) / sum(ratios.values())

    def between(self, first: int, last: int) -> list[str]:
        """The sources of the iterations from ``first`` to before ``last``, unordered."""
        counts = self._until(last) - self._until(first)
        return [name for name, count in zip(self.names, counts, strict=True) for _ in range(count)]

    def _until(self, iterations: int) -> np.ndarray:
        """Iterations of each source among the first ones: its j-th is due at (j + 0.5) / share."""
        # First the turns that are due well before the end, then one by one.
        counts = np.floor(self.shares * max(iterations - len(self.shares), 0)).astype(int)
        while counts.sum() < iterations:
            counts[np.argmin((counts + 0.5) / self.shares)] += 1
        return counts


class AlternateSources(HookBase):
    """Selects the source of every iteration, and logs its losses under its name.

    The schedule and the position in every source are in the checkpoint.

    Args:
        loader: the loader that the trainer draws from.
        ratios: source -> share of the iterations; None: shares for which a pass over all sources
            sees each record once.
        seed: of the schedule.
        starts: source -> its first iteration, as for `SourceSchedule`.
        block: iterations in which the shares are kept.
    """

    trainer: Trainer

    def __init__(
        self,
        loader: HybridLoader,
        ratios: Mapping[str, float] | None = None,
        seed: int = 0,
        starts: Mapping[str, int] | None = None,
        block: int = 100,
    ) -> None:
        self.loader = loader
        if ratios is None:
            ratios = _in_proportion_to_data(loader)
        if set(ratios) != set(loader.sources):
            raise UserError(
                f"train.source_ratios names {sorted(ratios)}, but the sources of dataloader.train "
                f"are {sorted(loader.sources)}"
            )
        self.schedule = SourceSchedule(ratios, seed, block, starts)

    def before_step(self) -> None:
        """Select the source."""
        self.loader.select(self.schedule.source_of(self.trainer.iter))

    def after_step(self) -> None:
        """Log the losses of this iteration under the source's name."""
        if len(self.loader.sources) > 1 and comm.is_main_process():
            storage = self.trainer.storage
            for name, (value, when) in list(storage.latest().items()):
                if when == self.trainer.iter and "loss" in name and "/" not in name:
                    storage.put_scalar(f"{self.trainer.source}/{name}", value)

    def state_dict(self) -> dict[str, Any]:
        """The schedule and the position in every source."""
        return {"schedule": self.schedule.state_dict(), "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint stopped."""
        if state["schedule"] != self.schedule.state_dict():
            logger.warning("the schedule of sources differs from the checkpoint's; ours is used")
        self.loader.load_state_dict(state["loader"])


class SeedEachIteration(HookBase):
    """Seeds random numbers in the model (drop path) by seed, process and iteration.

    A resumed run therefore equals an uninterrupted one.

    Args:
        seed: 0 or more.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed torch's generators."""
        entropy = [self.seed, comm.get_rank(), self.trainer.iter]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


class ReportSkipped(HookBase):
    """Logs skipped data by kind, periodically and at the end.

    Args:
        loader: counts what its sources skip.
        period: iterations between two reports.
    """

    def __init__(self, loader: HybridLoader, period: int = 1000) -> None:
        self.loader = loader
        self.period = period

    def after_step(self) -> None:
        """Report, if it is time."""
        if (self.trainer.iter + 1) % self.period == 0:
            self.report()

    def after_train(self) -> None:
        """Report at the end."""
        self.report()

    def report(self) -> None:
        """Log a line for each kind."""
        for line in self.loader.report():
            logger.info(line)


def _in_proportion_to_data(loader: HybridLoader) -> dict[str, float]:
    """Iterations of each source for one pass over its records."""
    if len(loader.sources) == 1:
        return dict.fromkeys(loader.sources, 1.0)
    ratios = {}
    for name, source in loader.sources.items():
        if source.length is None:
            raise UserError(
                f"the number of records of source {name!r} is not known, because it is read from "
                f"{source.records.kind}: give the shares of all sources as train.source_ratios"
            )
        ratios[name] = source.length / source.total_batch_size
    return ratios
