import logging

import pytest

from tests.helpers.tiny_training import load_train_net


@pytest.fixture
def train_net():
    """The script as a module; the loggers that it sets up are put back."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "detclip2")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield load_train_net()
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.propagate = propagate
