"""Comparable runs: a fixed number of iterations of each source, after a shared start.

From random weights, image-text pairs and grounding help only once regions are discriminative. Runs
that differ in these sources alone therefore share a start on detection data. It is trained once,
and every run resumes from its checkpoint: the result equals, to the bit, a run from the beginning.
"""

from collections.abc import Mapping
from typing import Any

from detclip2.utils.errors import UserError

FIRST = "detection"
"""The source of the shared start."""


def schedule_of_budget(iterations: Mapping[str, int], shared: int) -> dict[str, Any]:
    """The keys of ``train`` that give every source its number of iterations.

    Args:
        iterations: source -> its iterations in all; those of "detection" include the shared
            start, and a source with 0 is not used.
        shared: iterations of "detection" before the other sources begin.

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
