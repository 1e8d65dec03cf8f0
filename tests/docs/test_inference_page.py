"""The snippets of docs/inference.md, run as a reader would."""

import shutil

import numpy as np
import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from detclip2.data.io.video import Video
from detclip2.utils.model_folder import SHIPPED
from tests.helpers.pages import ROOT, blocks, commands, run
from tests.helpers.videos import COUNT, draw_frames, write

PAGE = "docs/inference.md"


@pytest.fixture
def folder(tmp_path, monkeypatch, nano_folder, nano_config):
    """The reader's working directory, with a model, an image and a video."""
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setenv("DETCLIP2_MODEL", str(model))
    monkeypatch.setitem(SHIPPED, "emoji_nano", model)
    cfg = OmegaConf.create(nano_config, flags={"allow_objects": True})
    cfg.inference = {"min_size": 96, "max_size": 160, "batch_size": 4, "score_threshold": 0.3}
    LazyConfig.save(cfg, str(model / "config.yaml"))
    weights = load_file(nano_folder / "model.safetensors")
    weights["align.bias"] += 4  # so that the untrained model finds something
    save_file(weights, model / "model.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "scene.jpg")
    write(tmp_path / "clip.mp4", list(draw_frames())[:COUNT])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_page(folder):
    found = {}
    for _, block in blocks(PAGE, "python"):
        exec(compile(block, PAGE, "exec"), found)
    assert len(found["several"]) == 2
    assert found["tally"].frames == COUNT == len(list(Video(folder / "found" / "clip.mp4")))
    assert Image.open(folder / "found" / "scene.png").size == (80, 60)
    assert len(found["rows"]) == len(found["predictor"]("scene.jpg")) > 5


def test_the_commands_of_the_page(folder, capsys):
    for words in commands(PAGE):
        run(words)
    capsys.readouterr()
    names = {path.name for path in (folder / "found").iterdir()}
    scene, clip = "scene.detections.jpg", "clip.detections.mp4"
    assert names == {scene, clip, f"{scene}.json", f"{clip}.json"}
    shutil.rmtree(folder / "found")


def test_the_page_is_a_notebook():
    import jupytext

    cells = [cell.source for cell in jupytext.read(ROOT / PAGE).cells if cell.cell_type == "code"]
    python = [cell for cell in cells if not cell.startswith("%%")]
    assert python == [code.strip() for _, code in blocks(PAGE, "python")]
    assert [cell.split("\n")[0] for cell in cells if cell not in python] == ["%%sh"]
