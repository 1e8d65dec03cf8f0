"""The journal: nothing that is in it is lost, whatever happens to the process or the disk."""

import errno
import os

import numpy as np
import pytest

from detclip2.labelling import journal as module
from detclip2.labelling.journal import FOLDER, Journal, Journals
from detclip2.labelling.part import Part
from detclip2.utils.errors import UserError


def entries(*numbers):
    return [{"image": number, "file_name": f"é{number}.png", "boxes": []} for number in numbers]


def skip(number):
    return {"image": number, "skipped": "image-unreadable", "file_name": "x", "reason": "r"}


def written(folder, name, *added):
    with Journal(folder / FOLDER / name) as journal:
        for one in added:
            journal.add(one)
    return folder / FOLDER / name


def test_entries_come_by_their_numbers_over_all_journals(tmp_path):
    written(tmp_path, "part-1-of-2.jsonl", *entries(4, 0, 2))
    written(tmp_path, "part-2-of-2.jsonl", *entries(3, 1))
    journals = Journals(tmp_path, 7)
    assert [*journals.entries()] == entries(0, 1, 2, 3, 4)
    np.testing.assert_array_equal(journals.done().nonzero()[0], [0, 1, 2, 3, 4])
    assert [*Journals(tmp_path / "none", 2).entries()] == []


def test_wherever_it_is_cut_the_whole_lines_remain(tmp_path):
    path = written(tmp_path, "part-1-of-1.jsonl", *entries(0, 1, 2))
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        whole = content[:length].count(b"\n")
        with Journal(path) as journal:
            for one in entries(0, 1, 2)[whole:]:
                journal.add(one)
        assert path.read_bytes() == content, length


def test_damage_in_the_middle_ends_it_there(tmp_path):
    path = written(tmp_path, "part-1-of-1.jsonl", *entries(0, 1, 2))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * len(lines[1]) + b"\n" + lines[2])
    assert [*Journals(tmp_path, 3).entries()] == entries(0)
    with Journal(path):
        pass
    assert path.read_bytes() == lines[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch, code):
    path = tmp_path / FOLDER / "part-1-of-1.jsonl"
    write = os.write
    with Journal(path) as journal:
        journal.add(entries(0)[0])

        def fill(file, data):
            if len(data) > 9:  # some bytes fit
                return write(file, bytes(data)[:9])
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(module.os, "write", fill)
        with pytest.raises(UserError, match=r"nothing more can be written.*repeat the command"):
            journal.add(entries(1)[0])
        monkeypatch.setattr(module.os, "write", write)
        journal.add(entries(2)[0])
    assert [*Journals(tmp_path, 3).entries()] == entries(0, 2)


def test_it_is_forced_to_the_disk_each_second_and_at_the_end(tmp_path, monkeypatch):
    synced, now = [], [0.0]
    monkeypatch.setattr(module.os, "fsync", synced.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Journal(tmp_path / "j.jsonl") as journal:
        for number in range(10):
            now[0] += 0.3
            journal.add(entries(number)[0])
        assert len(synced) == 2
    assert len(synced) == 3


def test_two_processes_do_not_write_one_journal(tmp_path):
    path = tmp_path / FOLDER / "part-3-of-16.jsonl"
    with Journal(path):
        with pytest.raises(UserError, match="another process writes"):
            Journal(path)
        journals = Journals(tmp_path, 100)
        for part in (Part(2, 16), Part(0, 1), Part(0, 2), Part(18, 32), Part(2, 3)):
            with pytest.raises(UserError, match="the same images"):
                journals.check_free(part)
        for part in (Part(3, 16), Part(1, 2), Part(1, 4), Part(3, 32)):
            journals.check_free(part)
    Journals(tmp_path, 100).check_free(Part(2, 16))
    with Journal(path):
        pass


def test_what_was_skipped_may_be_tried_again(tmp_path):
    written(tmp_path, "part-1-of-2.jsonl", skip(0), *entries(2), skip(1))
    journals = Journals(tmp_path, 3)
    assert journals.done().all()
    np.testing.assert_array_equal(journals.done(retry_skipped=True), [False, False, True])
    # In the same journal, and in one that is read before it.
    written(tmp_path, "part-1-of-2.jsonl", *entries(0))
    written(tmp_path, "part-1-of-1.jsonl", *entries(1))
    assert journals.done(retry_skipped=True).all()
    assert [*journals.entries()] == entries(0, 1, 2)


def test_parts(tmp_path):
    assert Part.parse("3/16") == Part(2, 16)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/3", "1/2/3"):
        with pytest.raises(UserError, match="--part"):
            Part.parse(text)
    assert Part.of_journal(Part(2, 16).journal) == Part(2, 16)
    assert Part.of_journal("ray.jsonl") is None
    images = {*range(2, 100, 16)}
    split = [{*range(small.index, 100, small.count)} for small in Part(2, 16).split(3)]
    assert set.union(*split) == images
    assert sum(map(len, split)) == len(images)


def test_parts_that_share_images():
    parts = [Part(i, n) for n in range(1, 7) for i in range(n)]
    for one in parts:
        for other in parts:
            both = {*range(one.index, 60, one.count)} & {*range(other.index, 60, other.count)}
            assert one.shares_images_with(other) == bool(both)
