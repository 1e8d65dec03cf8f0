"""Warnings that libraries give about themselves, of which our users can mend nothing."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGES = (
    # fvcore compiles a loss when it is imported, with or without Detectron2 proper.
    "`torch.jit.script` is deprecated",
    # Detectron2's anchors.
    "torch.meshgrid: in an upcoming release",
)


@contextmanager
def without_upstream_warnings() -> Iterator[None]:
    """A block in which they are not shown; others are."""
    with warnings.catch_warnings():
        for message in _MESSAGES:
            warnings.filterwarnings("ignore", message)
        yield
