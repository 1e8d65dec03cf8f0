import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, write_whole


def test_writes_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    write_whole(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ({"a": [1, 2.5, "ü", None, True]}, {"a": [1, 2.5, "ü", None, True]}),
        (
            {"a": (float("nan"), {"b": -float("inf")}), "c": 1e308},
            {"a": [None, {"b": None}], "c": 1e308},
        ),
        (["caf\udce9.png", "\U0001f34e", "\\udce9"], ["caf\udce9.png", "\U0001f34e", "\\udce9"]),
    ],
)
def test_json_that_every_parser_reads(content, read):
    def refuse(constant):
        raise AssertionError(constant)

    text = json_bytes(content).decode("utf-8")  # valid UTF-8
    assert json.loads(text, parse_constant=refuse) == read


def test_a_name_that_is_not_utf_8_comes_back_from_json():
    name = b"caf\xe9.png"
    assert os.fsencode(json.loads(json_bytes(os.fsdecode(name)))) == name


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_keeps_the_former_file(tmp_path, old):
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)

    def write(file):
        file.write(b"half of the n")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, write)
    assert (path.read_bytes() if path.exists() else None) == old
    assert os.listdir(tmp_path) == (["file.bin"] if old else [])


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"0" * 100_000)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()

    def write(file, digit):
        for _ in range(100):
            file.write(digit * 1000)

    for number in range(5):
        write_whole(path, lambda file, digit=b"%d" % (number % 10): write(file, digit))
    done.set()
    reader.join()
    assert seen == {(100_000, 1)}


needs_full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="there is no /dev/full, where every write fails"
)


@needs_full_device
@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(b"content"),
        lambda file: torch.save({"a": torch.zeros(10)}, file),
        lambda file: torch.save({"a": torch.zeros(1_000_000)}, file),  # torch hides the OSError
    ],
)
def test_a_full_disk_is_reported_in_a_sentence(tmp_path, monkeypatch, write):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r": opened(Path("/dev/full"), mode))
    with pytest.raises(UserError, match=r"model\.pth could not be written: No space left"):
        write_whole(path, write)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pth"]


def test_the_folder_is_forced_to_disk_after_the_rename(tmp_path, monkeypatch):
    happened = []
    replace, fsync = Path.replace, os.fsync

    def note_replace(self, target):
        happened.append("rename")
        return replace(self, target)

    def note_fsync(descriptor):
        happened.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(os, "fsync", note_fsync)
    write_whole(tmp_path / "file.bin", lambda file: file.write(b"content"))
    assert happened == ["file", "rename", "folder"]
