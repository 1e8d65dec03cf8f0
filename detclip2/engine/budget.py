"""Runs that are to be compared: so many iterations of each source, after a start that all share.

Image-text pairs and grounding teach a model from random weights nothing before boxes have taught
its regions to differ. So runs that differ in these alone have the same beginning, which need be
computed once: its checkpoint is what all of them resume from, and the result is the same to the
bit as of a run from the beginning.
"""

import math
from collections.abc import Mapping
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler

from detclip2.utils.errors import UserError

FIRST = "detection"
"""The source of the shared start."""
WARMUP_FACTOR = 0.001  # as of the other schedules


class SharedStartCosine(ParamScheduler):
    """A linear warm-up, then a constant rate while all runs are one, then a cosine down to zero.

    It is computed from whole iterations, so that up to the end of the shared start, runs of any
    length have the same rates to the bit.

    Args:
        max_iter: iterations of the run.
        warmup_iterations: how many of them warm up.
        shared: iterations that all runs have in common.

    Raises:
        UserError: the warm-up is longer than the shared start, or that than the run.
    """

    def __init__(self, max_iter: int, warmup_iterations: int, shared: int) -> None:
        if not 0 <= warmup_iterations <= shared <= max_iter:
            raise UserError(
                f"lr_multiplier: expected warmup_iterations <= shared <= max_iter, but they are "
                f"{warmup_iterations}, {shared} and {max_iter}"
            )
        self.max_iter = max_iter
        self.warmup_iterations = warmup_iterations
        self.shared = shared

    def __call__(self, where: float) -> float:
        """The multiplier at `where` of the run, in [0, 1]."""
        iteration = round(where * self.max_iter)
        if iteration < self.warmup_iterations:
            return WARMUP_FACTOR + (1 - WARMUP_FACTOR) * iteration / self.warmup_iterations
        if iteration <= self.shared:
            return 1.0
        done = (iteration - self.shared) / (self.max_iter - self.shared)
        return 0.5 * (1 + math.cos(math.pi * done))


def schedule_of_budget(iterations: Mapping[str, int], shared: int) -> dict[str, Any]:
    """The keys of ``train`` by which every source has its number of iterations.

    Args:
        iterations: source -> its iterations in all; those of "detection" include the shared
            start, and a source with 0 is not used.
        shared: iterations of "detection" before the others begin.

    Returns:
        ``max_iter``, ``source_ratios`` and ``source_starts``.

    Raises:
        UserError: a number is negative, or detection has no more than the shared start.
    """
    if min(iterations.values(), default=0) < 0:
        raise UserError(f"the budget has numbers of iterations, not {dict(iterations)}")
    if not iterations.get(FIRST, 0) > shared >= 0:
        raise UserError(
            f"the budget gives {FIRST} {iterations.get(FIRST, 0)} iterations; expected more than "
            f"the shared start, {shared}"
        )
    used = {str(name): number for name, number in iterations.items() if number}
    return {
        "max_iter": sum(used.values()),
        "source_ratios": {name: n - shared * (name == FIRST) for name, n in used.items()},
        "source_starts": {name: shared for name in used if name != FIRST} or None,
    }
