"""A folder with two images of 8 x 8 pixels, into which every example writes its file."""

import numpy as np
import pytest
from PIL import Image

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((SIZE, SIZE, 3), 99, np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """A test of thousands of damaged files logs none of them."""
    import logging

    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
