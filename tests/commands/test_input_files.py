"""What the paths of `detclip2 predict` name, and what is passed over in folders."""

import itertools
import os
from pathlib import Path

import pytest

from detclip2 import cli
from detclip2.commands import input_files as module
from detclip2.commands.input_files import input_files


@pytest.fixture
def folder(tmp_path):
    names = {
        "read": ["a.JPG", "b.png", "c.mp4", "d.VOB", "e.mpg", os.fsdecode(b"caf\xe9.png")],
        "HEIC": ["f.HEIC", "g.heif"],
        "camera": ["h.CR2"],
        "vector": ["i.svg", "j.pdf"],
        "hidden": ["._a.JPG", ".DS_Store"],
        "neither images nor videos": ["k.txt", "l.xyz", "noname", "m.mp3", "n.zip"],
    }
    for name in itertools.chain(*names.values()):
        (tmp_path / name).touch()
    for name in ("sub", "sub.png"):
        (tmp_path / name).mkdir()
    return tmp_path, {**names, "sub-folder": ["sub", "sub.png"]}


def test_every_entry_of_a_folder_is_read_or_counted(folder, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    path, names = folder
    output = path / "output"
    output.mkdir()
    files, errors, passed_over = input_files([path], output)
    assert [file.name for file in files] == sorted(names.pop("read"))
    assert errors == []
    assert len(passed_over) == len(names)
    for what, of_kind in names.items():
        [line] = [line for line in passed_over if what in line]
        assert line.startswith(f"passed over in {path}: {len(of_kind)} ")
        assert sorted(of_kind)[0] in line
    assert "pip install pillow-heif" in " ".join(passed_over)
    assert "output" not in " ".join(passed_over)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "pillow_heif")
    assert len(input_files([path], output).files) == len(files) + len(names["HEIC"])


def test_paths_that_are_no_folders_are_read_whatever_their_names(tmp_path):
    paths = [tmp_path / "x.heic", tmp_path / "missing", Path("x" * 5000), tmp_path / "a\0b"]
    assert input_files(paths, tmp_path).files == paths


def test_a_folder_without_images_does_not_end_the_batch(tmp_path, nano_folder, capsys):
    from PIL import Image

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.svg").touch()
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    words = ["predict", tmp_path / "empty", tmp_path / "x.png", "--names", "owl", "--model"]
    words += [nano_folder, "--device", "cpu", "--output", tmp_path / "out"]
    assert cli.main([*map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert "x.png: " in out
    assert "empty: there is no image or video in this folder" in err
    assert err.rstrip().endswith("(x.svg)")  # at the end
    assert cli.main([str(word) for word in words if word != tmp_path / "x.png"]) == 2
    assert "convert them to PNG" in capsys.readouterr().err
