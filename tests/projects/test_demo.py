import os
import subprocess
import sys

import pytest
from detectron2.config import LazyConfig
from tiny_training import PROJECT, tiny_config

# The demo with another folder and a smaller training.
DEMO = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv.pop(1))
import demo

demo.MODEL, demo.CONFIG = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
sys.exit(demo.main())
"""


def python(code, *words):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture
def config_file(tmp_path):
    LazyConfig.save(tiny_config("", iterations=2), str(tmp_path / "tiny.yaml"))
    return tmp_path / "tiny.yaml"


def test_a_folder_of_any_name(config_file, tmp_path):
    """Spaces, "=" and "[" mean something in the overrides of a config."""
    model = tmp_path / "my pictures = [new, {1}" / "demo's"
    ended = python(DEMO, PROJECT, model, config_file)
    assert ended.returncode == 0, ended.stderr
    assert "There is no trained model yet" in ended.stdout
    assert "AP50 on 4 new pictures" in ended.stdout
    names = {path.name for path in model.iterdir()}
    assert names >= {"config.yaml", "model.safetensors", "log.txt", "pictures", "found"}
    assert len(list((model / "found").iterdir())) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", model.parent.name}
