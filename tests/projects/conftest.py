import pytest

from tests.helpers.tiny_training import load_train_net


@pytest.fixture
def train_net():
    """The script as a module."""
    return load_train_net()
