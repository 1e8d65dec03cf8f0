import os
import subprocess
import sys

import pytest

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
    """The demo without arguments, as a program, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    ended = subprocess.run(
        [sys.executable, "-c", DEMO, str(PROJECT), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return ended, folder


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
def test_own_images_and_names(first, tmp_path, monkeypatch):
    demo = load_script(PROJECT / "demo.py")
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    image_file = str(first[1] / "images" / "scene_0.png")
    monkeypatch.setattr(sys, "argv", ["demo.py", image_file, "--names", "drum, owl"])
    assert demo.main() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene_0.detections.png"]
