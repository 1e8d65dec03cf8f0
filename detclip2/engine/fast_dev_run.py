"""A run of a few iterations that goes through everything, before a long one is started."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

TURNS = 2  # iterations of each source
TEST_BATCHES = 2


def shorten(cfg: DictConfig) -> None:
    """Make ``cfg`` such a run, in the subfolder ``fast_dev_run`` of its output folder.

    Every source has its turn, a checkpoint is written and an evaluation made in the middle and at
    the end, and every iteration is logged. Only what a run of thousands of iterations does late is
    brought forward; models, data and batch sizes are those of the long run.
    """
    nodes = cfg.dataloader.train.items()
    names = [name for name, node in nodes if isinstance(node, DictConfig) and "mapper" in node]
    cfg.train.update(
        output_dir=str(Path(cfg.train.output_dir) / "fast_dev_run"),
        max_iter=TURNS * len(names),
        source_ratios=dict.fromkeys(names, 1.0),
        source_starts=None,
        checkpointer={**cfg.train.checkpointer, "period": len(names)},
        eval_period=len(names),
        log_period=1,
    )


class FirstBatches:
    """The first batches of a test loader.

    Args:
        loader: has a length.
        number: of batches, at most.
    """

    def __init__(self, loader: Any, number: int = TEST_BATCHES) -> None:
        self.loader = loader
        self.number = number

    def __len__(self) -> int:
        return min(self.number, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.number)
