import os
import threading

import pytest

from detclip2.files import write_whole


def test_writes_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    write_whole(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path, old):
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
