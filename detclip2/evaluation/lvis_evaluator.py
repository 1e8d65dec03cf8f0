"""LVIS's average precision, with Detectron2's evaluator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from detectron2 import evaluation


class LVISEvaluator(evaluation.LVISEvaluator):
    """Detectron2's evaluator of LVIS: AP, APr, APc, APf over IoU 0.5 to 0.95, 300 boxes an image.

    It works with current versions of NumPy, which the lvis package alone does not.
    """

    def evaluate(self) -> dict[str, Any]:
        """As Detectron2's."""
        with numpy_with_float():
            return super().evaluate()


@contextmanager
def numpy_with_float() -> Iterator[None]:
    """Give NumPy back its old name ``np.float``, which lvis 0.5.3, the last release, still says."""
    with mock.patch.object(np, "float", float, create=True):
        yield
