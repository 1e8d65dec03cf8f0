import os
import subprocess
import sys

import pytest

from detclip2.data.emojiscenes.categories import make_world, names_of
from tests.helpers.tiny_training import PROJECT

# The demo with another folder.
DEMO = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv.pop(1))
import demo

demo.OUTPUT = Path(sys.argv.pop(1))
sys.exit(demo.main())
"""


def run_demo(output, *words):
    return subprocess.run(
        [sys.executable, "-c", DEMO, *map(str, (PROJECT, output, *words))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.processes
def test_new_images(tmp_path):
    ended = run_demo(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "images").iterdir())) == 3
    assert len(list(tmp_path.glob("*.detections.png"))) == 3
    # Some names without boxes in training are found.
    new, _, found = ended.stdout.partition("never boxed in training: ")[2].partition("\n")
    assert set(new.split(", ")) <= set(names_of(make_world().novel))
    assert any(name in found for name in new.split(", "))


@pytest.mark.processes
def test_own_images_and_names(tmp_path):
    run_demo(tmp_path / "first")
    image_file = tmp_path / "first" / "images" / "scene_0.png"
    ended = run_demo(tmp_path / "second", image_file, "--names", "drum, owl")
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["scene_0.detections.png"]
