"""The file of an index: made once, again if the tar has changed, and never in the way."""

import os

import numpy as np
import pytest
from detectron2.utils import comm

from detclip2.data.io import shards, tar_index
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.io.tar_index import pair_index
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError
from tests.helpers.tars import pairs, tar_bytes


@pytest.fixture
def made(monkeypatch):
    """The paths of the tars whose headers are read, as they are."""
    paths, pair_ranges = [], tar_index.pair_ranges

    def counted(path, count):
        paths.append(path)
        return pair_ranges(path, count)

    monkeypatch.setattr(tar_index, "pair_ranges", counted)
    return paths


@pytest.fixture
def tar(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "data" / "x.tar"
    path.parent.mkdir()
    path.write_bytes(tar_bytes([*pairs(0, 3), ("b.txt", b"no image"), ("c.txt", b"no image")]))
    return path


def test_an_index_is_made_once_with_its_counts(tar, made):
    for _ in range(3):
        counter = SkipCounter()
        records = ImageTextShards(str(tar), counter)
        assert [record["image_id"] for record in records] == ["000", "001", "002"]
        assert counter.counts() == {"record-malformed": 2}
    assert made == [str(tar)]
    assert [file.name for file in sorted(tar.parent.iterdir())] == ["x.tar", "x.tar.index"]


def test_an_index_is_made_anew_if_the_tar_has_changed(tar, made):
    ImageTextShards(str(tar))
    status = os.stat(tar)
    tar.write_bytes(tar_bytes(pairs(0, 20)))
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))  # another size
    assert len(ImageTextShards(str(tar))) == 20
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # another time
    for _ in range(2):
        assert len(ImageTextShards(str(tar))) == 20
    assert len(made) == 3


def test_a_folder_that_cannot_be_written_to_has_its_index_in_the_cache(
    tar, made, tmp_path, monkeypatch
):
    write_whole = tar_index.write_whole

    def refused(path, write):
        if path.parent == tar.parent:
            raise PermissionError(13, "Permission denied", str(path))
        write_whole(path, write)

    monkeypatch.setattr(tar_index, "write_whole", refused)
    for _ in range(2):
        assert len(ImageTextShards(str(tar))) == 3
    assert made == [str(tar)]
    assert [file.name for file in tar.parent.iterdir()] == ["x.tar"]
    (file,) = (tmp_path / "cache").rglob("*.index")

    def full(path, write):
        raise UserError(f"{path} could not be written: no space left")

    file.unlink()
    monkeypatch.setattr(tar_index, "write_whole", full)
    assert len(ImageTextShards(str(tar))) == 3


def test_a_damaged_file_of_an_index_is_made_anew(tar, made):
    whole = pair_index(str(tar))
    file = tar.with_name("x.tar.index")
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:cut] for cut in range(0, len(content), 37)]
    for _ in range(40):
        changed = bytearray(content)
        changed[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        damaged.append(bytes(changed))
    for number, bad in enumerate([b"", b"PK\x03\x04", rng.bytes(500), *damaged]):
        file.write_bytes(bad)
        before = len(made)
        found = pair_index(str(tar))
        if len(made) > before:
            assert np.array_equal(found.runs, whole.runs), number
            assert found.skipped == whole.skipped
            assert file.read_bytes() == content
        else:  # a number has changed to another valid one: reading the pair finds out
            assert len(found) == len(whole)


def test_processes_share_the_work(tmp_path, made, monkeypatch):
    paths = [str(tmp_path / f"{i}.tar") for i in range(6)]
    for path in paths:
        (tmp_path / path).write_bytes(tar_bytes(pairs(0, 1)))
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert len(shards._indices(paths, SkipCounter())) == 6
    assert made == paths[2:] + paths[:2]  # the second third comes first


def test_a_tar_beyond_the_numbers_of_an_index_is_refused(tar, monkeypatch):
    monkeypatch.setattr(tar_index, "_MAX_TAR_BYTES", tar.stat().st_size - 1)
    with pytest.raises(UserError, match=r"x\.tar has more than 2 TiB: split it"):
        pair_index(str(tar))
