"""Which source each iteration takes its batch from (paper, sec. 3.4)."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.data.sources.image_text import ImageTextShards
from detclip2.errors import UserError

logger = logging.getLogger(__name__)


class Schedule:
    """One source an iteration, in given proportions, in an order that a seed decides.

    The paper says neither how often nor in which order its sources take turns. Here every run of
    ``block`` iterations has each source's share of them (rounded by Webster's method, so that
    nothing is lost over time), shuffled. The choice is a function of the iteration alone, so all
    processes agree without a word, and a resumed run goes on as before.

    Args:
        ratios: source -> how many iterations it gets, relative to the others.
        seed: of the order.
        block: iterations in which the shares are kept.

    Raises:
        UserError: a ratio that is not a number or negative, or none above zero.
    """

    def __init__(self, ratios: Mapping[str, float], seed: int = 0, block: int = 100) -> None:
        numbers = [r for r in ratios.values() if isinstance(r, int | float) and 0 <= r < math.inf]
        if len(numbers) < len(ratios) or sum(numbers) <= 0:
            raise UserError(f"train.source_ratios must be positive numbers, not {dict(ratios)}")
        self.names = [name for name, ratio in ratios.items() if ratio > 0]
        self.shares = np.array([ratios[name] for name in self.names]) / sum(numbers)
        self.seed = seed
        self.block = block
        self._order: tuple[int, np.ndarray] | None = None

    def source_of(self, iteration: int) -> str:
        """The source of an iteration, counted from 0."""
        block, position = divmod(iteration, self.block)
        if self._order is None or self._order[0] != block:
            counts = self._until((block + 1) * self.block) - self._until(block * self.block)
            order = np.repeat(np.arange(len(self.names)), counts)
            np.random.default_rng([self.seed, block]).shuffle(order)
            self._order = (block, order)
        return self.names[self._order[1][position]]

    def _until(self, iterations: int) -> np.ndarray:
        """Iterations of each source among the first ones: its j-th is due at (j + 0.5) / share."""
        # What is due well before the end, and then one after the other.
        counts = np.floor(self.shares * max(iterations - len(self.shares), 0)).astype(int)
        while counts.sum() < iterations:
            counts[np.argmin((counts + 0.5) / self.shares)] += 1
        return counts

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on."""
        shares = dict(zip(self.names, self.shares.tolist(), strict=True))
        return {"shares": shares, "seed": self.seed, "block": self.block}


class AlternateSources(HookBase):
    """Selects the source of every iteration, and logs its losses under its name.

    With one source it keeps the loader's position in the checkpoint, and that is all it does.
    Randomness inside the model (drop path) is seeded by seed, iteration and process, so that a
    resumed run equals one that was not interrupted.

    Args:
        loader: the loader that the trainer draws from.
        ratios: source -> share of the iterations; None gives every source the share in which a
            pass over all of them sees each record once.
        seed: of the schedule and of the model's randomness.
        report_period: iterations between two reports of what was left out.
    """

    def __init__(
        self,
        loader: HybridLoader,
        ratios: Mapping[str, float] | None = None,
        seed: int = 0,
        report_period: int = 1000,
    ) -> None:
        self.loader = loader
        self.seed = seed
        self.report_period = report_period
        if ratios is None:
            ratios = _in_proportion_to_data(loader)
        if set(ratios) != set(loader.sources):
            raise UserError(
                f"train.source_ratios names {sorted(ratios)}, but the sources of dataloader.train "
                f"are {sorted(loader.sources)}"
            )
        self.schedule = Schedule(ratios, seed)

    def before_step(self) -> None:
        """Choose the source and seed what is random inside the model."""
        iteration = self.trainer.iter
        self.loader.select(self.schedule.source_of(iteration))
        state = np.random.SeedSequence([self.seed, comm.get_rank(), iteration]).generate_state(1)
        torch.manual_seed(int(state[0]))

    def after_step(self) -> None:
        """Log the losses of this iteration under the source's name."""
        iteration = self.trainer.iter
        if len(self.loader.sources) > 1 and comm.is_main_process():
            storage = self.trainer.storage
            for name, (value, when) in list(storage.latest().items()):
                if when == iteration and "loss" in name and "/" not in name:
                    storage.put_scalar(f"{self.loader.selected}/{name}", value)
        if (iteration + 1) % self.report_period == 0:
            self._report()

    def after_train(self) -> None:
        """Say what was left out."""
        self._report()

    def _report(self) -> None:
        for line in self.loader.report():
            logger.info(line)

    def state_dict(self) -> dict[str, Any]:
        """The schedule and the position in every source."""
        return {"schedule": self.schedule.state_dict(), "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        if state["schedule"] != self.schedule.state_dict():
            logger.warning("the schedule of sources differs from the checkpoint's; ours is used")
        self.loader.load_state_dict(state["loader"])


def _in_proportion_to_data(loader: HybridLoader) -> dict[str, float]:
    """Iterations of each source for one pass over its records."""
    if len(loader.sources) == 1:
        return dict.fromkeys(loader.sources, 1.0)
    ratios = {}
    for name, source in loader.sources.items():
        if isinstance(source.records, ImageTextShards):
            raise UserError(
                f"the number of records of source {name!r} is not known, for it is read from tar "
                "shards: give the shares of all sources as train.source_ratios"
            )
        ratios[name] = len(source.records) / source.total_batch_size
    return ratios
