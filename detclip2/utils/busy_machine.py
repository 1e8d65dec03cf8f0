"""Threads of torch on a machine that others use too."""

import os

BUSY = 0.5
"""Load of the last minute, for each core that this process may use, from which it is shared."""


def adapt_to_load() -> None:
    """Let idle threads of OpenMP sleep on a busy machine, before torch is imported.

    By default they wait by spinning, and take the time of the cores from those that work: two
    threads beside other programs are 20 times slower than one. Sleeping changes no result. What the
    user has set (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``) stays.
    """
    if is_busy() and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def is_busy() -> bool:
    """Whether other programs use the cores of this process; False where the system has no load."""
    try:
        load, _, _ = os.getloadavg()
    except (OSError, AttributeError):
        return False
    return load > BUSY * cores()


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
