"""What the arguments of `detclip2 predict` and `label` name, and what is passed over."""

import io
import itertools
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from detclip2 import cli
from detclip2.commands import input_files as module
from detclip2.commands.input_files import input_files
from detclip2.data.io.image_item import ImageItem
from detclip2.data.io.live_video import LiveVideo


@pytest.fixture
def folder(tmp_path):
    names = {
        "read": ["a.JPG", "b.png", "c.mp4", "d.VOB", "e.mpg", os.fsdecode(b"caf\xe9.png")],
        "HEIC": ["f.HEIC", "g.heif"],
        "camera": ["h.CR2"],
        "vector": ["i.svg", "j.pdf"],
        "hidden file": ["._a.JPG", ".DS_Store"],
        "tar": ["o.tar"],
        "neither images nor videos": ["k.txt", "l.xyz", "noname", "m.mp3", "n.zip"],
    }
    for name in itertools.chain(*names.values()):
        (tmp_path / name).touch()
    for name in (".git", "below", "below/sub.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "below")
    for name in (".git/x.png", "below/z.png", "below/sub.png/y.jpg", "below/k.txt"):
        (tmp_path / name).touch()
    names["read"] += ["below/z.png", "below/sub.png/y.jpg"]
    names["neither images nor videos"] += ["below/k.txt"]
    return tmp_path, {**names, "hidden folder": [".git"], "link(s) to folders": ["link"]}


def test_every_entry_of_a_folder_is_read_or_counted(folder, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    path, names = folder
    output = path / "output"
    output.mkdir()
    (output / "x.png").touch()
    files, errors, passed_over = input_files([path], output)
    read = names.pop("read")
    paths = [file.path if isinstance(file, ImageItem) else str(file) for file in files]
    assert sorted(paths) == sorted(str(path / name) for name in read)
    images = [file for file in files if isinstance(file, ImageItem)]
    assert all(file.name == os.path.relpath(file.path, path) for file in images)
    assert errors == []
    assert len(passed_over) == len(names)
    for what, of_kind in names.items():
        [line] = [line for line in passed_over if what in line]
        assert line.startswith(f"passed over in {path}: {len(of_kind)} ")
        assert sorted(of_kind)[0] in line or len(of_kind) > 3
    assert "pip install pillow-heif" in " ".join(passed_over)
    assert "output" not in " ".join(passed_over)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "pillow_heif")
    assert len(input_files([path], output).files) == len(files) + len(names["HEIC"])


def test_paths_that_are_no_folders_are_read_whatever_their_names(tmp_path):
    paths = [tmp_path / "x.heic", tmp_path / "missing", Path("x" * 5000), tmp_path / "a\0b"]
    files = input_files(paths, tmp_path).files
    assert [file.path for file in files] == [*map(str, paths)]


def test_names_begin_as_the_arguments_do_if_there_are_several(folder, tmp_path):
    path, _ = folder
    files = input_files([str(path / "below"), str(path / "b.png")], path / "out").files
    assert [file.name for file in files] == [
        str(path / name) for name in ("below/z.png", "below/sub.png/y.jpg", "b.png")
    ]


def test_patterns(folder):
    path, _ = folder
    (path / "x[1].png").touch()
    out = path / "out"

    def found(pattern):
        files, errors, passed_over = input_files([f"{path}/{pattern}"], out)
        paths = [one.path if isinstance(one, ImageItem) else one for one in files]
        return {os.path.relpath(one, path) for one in paths}, errors, passed_over

    assert found("*.png")[0] == {"b.png", os.fsdecode(b"caf\xe9.png"), "x[1].png"}
    assert found("x[1].png")[0] == {"x[1].png"}
    assert found("bel*")[0] == {"below/z.png", "below/sub.png/y.jpg"}
    assert {"below/z.png", "below/sub.png/y.jpg", "b.png"} <= found("**/*[pP]*g")[0]
    assert "k.txt" in found("*.txt")[2][0]
    assert "o.tar" in found("*.t*r")[1][0], "it is read, and is no tar"
    assert "no file fits" in found("*.nothing")[1][0]


def test_lists(folder, tmp_path):
    path, _ = folder
    lines = ["b.png", "", " below ", "\tbelow/z.png\r", "*.JPG", "http://h/x.jpg", "c.mp4"]
    lines += ["rtsp://h/1", "other.txt", "missing.png", str(path / "b.png")]
    (path / "list.txt").write_text("\ufeff" + "\n".join(lines))
    files, errors, _ = input_files([path / "list.txt"], path / "out")
    names = [f.name if isinstance(f, ImageItem) else str(getattr(f, "source", f)) for f in files]
    assert names == [
        "b.png",
        *(str(path / name) for name in ("below/z.png", "below/sub.png/y.jpg")),
        "below/z.png",
        str(path / "a.JPG"),
        "http://h/x.jpg",
        str(path / "c.mp4"),
        "rtsp://h/1",
        "missing.png",
        str(path / "b.png"),
    ]
    assert files[0].path == str(path / "b.png")
    assert ["a list in a list" in error for error in errors] == [True]
    (path / "photos.2024").mkdir()
    Image.new("RGB", (2, 2)).save(path / "photos.2024" / "a.png")
    (path / "dotted.txt").write_text("photos.2024\n")
    [file], _, _ = input_files([path / "dotted.txt"], path / "out")
    assert file.path == str(path / "photos.2024" / "a.png")
    (path / "empty.txt").write_text("\n \n")
    assert "is empty" in input_files([path / "empty.txt"], path / "out").errors[0]
    assert "cannot be read" in input_files([path / "none.txt"], path / "out").errors[0]


def test_tars(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(content, "PNG")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a/0.png", "a/0.txt", "b.JPEG", "._c.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            tar.addfile(info, io.BytesIO(content.getvalue()))
        link = tarfile.TarInfo("link.png")
        link.type = tarfile.SYMTYPE
        tar.addfile(link)
    files, errors, passed_over = input_files([path], tmp_path / "out")
    assert [file.name for file in files] == ["shard.tar/a/0.png", "shard.tar/b.JPEG"]
    assert [file.read().shape for file in files] == [(3, 4, 3)] * 2
    assert (errors, len(passed_over)) == ([], 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:1500])
    files, errors, passed_over = input_files([path], tmp_path / "out")
    assert "truncated or damaged" in passed_over[0]
    import gzip

    packed = tmp_path / "shard.tar.gz"
    packed.write_bytes(gzip.compress(whole))
    (tmp_path / "list.txt").write_text("shard.tar.gz\n")
    for one in (packed, tmp_path / "list.txt"):
        assert "unpack it (gunzip) first" in input_files([one], tmp_path / "out").errors[0]
    for bad in (b"", b"no tar at all"):
        path.write_bytes(bad)
        assert len(input_files([path], tmp_path / "out").errors) == 1
    assert "cannot be read" in input_files([tmp_path / "no.tar"], tmp_path).errors[0]


def test_addresses_and_cameras(tmp_path):
    names = ["https://h/a.jpg", "camera:0", "RTSP://u:p@h/1", "http://h/a.mp4"]
    image, *live = input_files(names, tmp_path).files
    assert image == ImageItem(names[0], names[0])
    assert all(isinstance(one, LiveVideo) for one in live)
    assert [one.path for one in live] == ["camera:0", "RTSP://h/1", "http://h/a.mp4"]
    assert [one.name for one in live] == ["camera_0", "RTSP___h_1", "http___h_a.mp4"]


def test_a_folder_without_images_does_not_end_the_batch(tmp_path, nano_folder, capsys):
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
