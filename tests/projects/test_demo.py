import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detclip2.data.emojiscenes.categories import make_world, names_of
from tests.helpers.tiny_training import PROJECT, load_script

# The demo with another folder.
DEMO = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv.pop(1))
import demo

demo.OUTPUT = Path(sys.argv.pop(1))
sys.exit(demo.main())
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The demo with drawn scenes, as a program, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(
        [sys.executable, "-c", DEMO, str(PROJECT), str(folder), "--model", "emoji_nano"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return ended, folder


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The script, which writes into `tmp_path`."""
    script = load_script(PROJECT / "demo.py")
    monkeypatch.setattr(script, "OUTPUT", tmp_path)
    return script


@pytest.mark.processes
def test_new_images(first):
    ended, folder = first
    assert ended.returncode == 0, ended.stderr
    assert len(list((folder / "images").iterdir())) == 3
    assert len(list(folder.glob("*.detections.png"))) == 3
    # Some names without boxes in training are found.
    new, _, found = ended.stdout.partition("never boxed in training: ")[2].partition("\n")
    assert set(new.split(", ")) <= set(names_of(make_world().novel))
    assert any(name in found for name in new.split(", "))


@pytest.mark.processes
def test_own_images_and_names(first, demo, tmp_path, monkeypatch):
    image_file = str(first[1] / "images" / "scene_0.png")
    monkeypatch.setattr(sys, "argv", ["demo.py", image_file, "--names", "drum, owl"])
    assert demo.main() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene_0.detections.png"]


def test_photographs_by_default(demo, tmp_path, monkeypatch, capsys):
    """Every photograph is annotated; what is plain to see is found, and all are joined in one."""
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.delenv("DETCLIP2_MODEL", raising=False)
    assert demo.main() == 0
    printed = capsys.readouterr().out
    for name in ("cat", "cup", "motorcycle"):
        assert re.search(rf"\n\s+{name}\s+1 ", printed)
    assert re.search(r"\n\s+person\s+2 ", printed)
    for file in demo.PHOTOGRAPHS:
        (drawn,) = tmp_path.glob(f"{Path(file).stem}.detections.*")
        assert drawn.stat().st_size > 10_000
    assert Image.open(tmp_path / "demo.jpg").size[0] > 1000


def test_images_are_joined_in_rows_of_equal_width(demo, tmp_path):
    files, colors = [], [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    sizes = [(40, 20), (20, 20), (40, 20), (10, 10)]
    centres = [(320, 160), (800, 160), (1280, 160), (800, 1000)]
    for i, (color, size) in enumerate(zip(colors, sizes, strict=True)):
        files.append(tmp_path / f"{i}.png")
        Image.new("RGB", size, color).save(files[-1])
    demo.write_overview(files, tmp_path / "all.jpg")
    pixels = np.asarray(Image.open(tmp_path / "all.jpg")).astype(int)
    # Rows: 640 + 320 + 640 px of height 320, then one square as wide as they.
    assert pixels.shape == (320 + 1600, 1600, 3)
    for (x, y), color in zip(centres, colors, strict=True):
        assert np.abs(pixels[y, x] - color).max() < 10


def test_without_the_package_of_the_photographs(demo, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    assert demo.main() == 2
    assert "come with skimage, which is not installed: run `make setup`" in capsys.readouterr().err
