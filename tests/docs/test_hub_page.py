"""The snippets of docs/hub.md, run as a reader would, without a network."""

import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub import constants
from PIL import Image

from detclip2.utils.model_folder import SHIPPED
from tests.helpers.hub_cache import FakeHub, add_snapshot

PAGE = Path(__file__).parents[2] / "docs" / "hub.md"


def test_the_python_of_the_page(sensitive_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub(tmp_path / "cache"))
    monkeypatch.setitem(SHIPPED, "photo_nano", sensitive_model)
    shutil.copytree(sensitive_model, tmp_path / "output" / "own")
    add_snapshot(tmp_path / "cache", "OWNER/NAME", sensitive_model, branch="v1")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "scene.jpg")
    found = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), found)
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert set(found["found"]["labels"]) == {"person", "T-shirt, size L"}
    assert found["one"]["label"] in ("person", "cat", "motorcycle")
