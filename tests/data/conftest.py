import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data():
    """The folder with small real data sets; tests that need it are skipped where it is not."""
    folder = os.environ.get("DETCLIP2_TEST_DATA")
    if not folder:
        pytest.skip("real data: DETCLIP2_TEST_DATA is not set")
    return Path(folder)
