"""Shards that the tests of both readers read."""

import pytest

from tests.helpers.tars import pairs, tar_bytes


@pytest.fixture
def shards(tmp_path):
    for i in range(4):
        (tmp_path / f"{i:05d}.tar").write_bytes(tar_bytes(pairs(10 * i, 10)))
    return str(tmp_path / "{00000..00003}.tar")
