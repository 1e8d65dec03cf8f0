"""The lvis package (the release of 2020), with which LVIS's numbers are checked."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from lvis import LVIS, LVISEval, LVISResults

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


@contextmanager
def numpy_with_float() -> Iterator[None]:
    """Restore the old name ``np.float``, which the package uses."""
    with mock.patch.object(np, "float", float, create=True):
        yield


def by_the_package(path, results, max_dets, task="bbox"):
    """LVIS's numbers in percent; NaN where the package has -1."""
    api = LVIS(str(path))
    copies = [dict(one) for one in results]  # the package adds keys to them
    with numpy_with_float():
        measured = LVISEval(api, LVISResults(api, copies, max_dets=max_dets), task)
        measured.run()
    values = {name: float(measured.get_results()[name]) for name in METRICS}
    return {name: 100 * value if value > -1 else math.nan for name, value in values.items()}
