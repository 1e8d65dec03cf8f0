"""How many loader processes of a source keep the steps of a training from waiting for data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

BUSY = 0.8
"""Share of the time that a loader process works on the average."""
PREFETCHED = 2
"""Batches that each process has ready (PyTorch's default)."""
RARE = 0.003
"""Share of the runs of iterations with one source that may be longer than what is ready."""


@dataclass(frozen=True)
class SourceRate:
    """One source in one process of a training."""

    batch: int
    """Samples of an iteration in this process."""
    share: float
    """Of the iterations, 0 to 1; all sources together have 1."""
    seconds: float
    """Of an iteration without waiting."""
    loaded: float
    """Samples a second that one loader process makes on a core of its own."""


def loader_processes(rates: Mapping[str, SourceRate]) -> dict[str, int]:
    """The loader processes of each source beside one process of the training.

    The loaders of a source work while other sources train: in a mean iteration over all sources,
    they have to make ``share x batch`` samples. The order of sources is random, and batches that
    are ready have to last for several iterations of one source in a row.

    Args:
        rates: of all sources of the run.
    """
    mean = sum(rate.share * rate.seconds for rate in rates.values())
    found = {}
    for name, rate in rates.items():
        making = rate.batch / rate.loaded  # seconds of a process for a batch
        on_average = rate.share * making / (mean * BUSY)
        found[name] = max(1, math.ceil(max(on_average, _in_a_row(rate, making))))
    return found


def _in_a_row(rate: SourceRate, making: float) -> float:
    """Loaders that feed as many iterations of a source in a row as there seldom are.

    W of them have 2W batches ready and make W more in ``making`` seconds.
    """
    if rate.share == 1:
        return 0.0  # a single source: the average says all
    row = math.log(RARE) / math.log(rate.share)
    return row / (PREFETCHED + row * rate.seconds / making)
