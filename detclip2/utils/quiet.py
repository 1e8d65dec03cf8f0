"""Third-party warnings that users cannot act on, suppressed."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGES = (
    # fvcore compiles a loss on import.
    "`torch.jit.script` is deprecated",
    # Detectron2's anchors.
    "torch.meshgrid: in an upcoming release",
)


@contextmanager
def without_upstream_warnings() -> Iterator[None]:
    """Suppress these warnings, and only these, in a block."""
    with warnings.catch_warnings():
        for message in _MESSAGES:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """Suppress what the logger `name` logs below errors, in a block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def without_any_warning() -> Iterator[None]:
    """Suppress all warnings, logged ones too, in a block: converters comment on their own work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
