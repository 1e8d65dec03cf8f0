"""The snippets of docs/inference.md, run as a reader would."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from detclip2 import cli
from detclip2.data.io.video import Video
from detclip2.utils.model_folder import SHIPPED
from tests.helpers.videos import COUNT, draw_frames, write

PAGE = Path(__file__).parents[2] / "docs" / "inference.md"


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


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_python_of_the_page(folder):
    found = {}
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), found)
    assert len(found["several"]) == 2
    assert found["tally"].frames == COUNT == len(list(Video(folder / "found" / "clip.mp4")))
    assert Image.open(folder / "found" / "scene.png").size == (80, 60)
    # Both ways give one number.
    ours, theirs = found["predictor"]("scene.jpg"), found["same"]
    assert len(ours) == len(theirs) > 5
    torch.testing.assert_close(ours.scores, theirs.scores, atol=0, rtol=1e-6)
    assert len(found["rows"]) == len(ours)


def test_the_commands_of_the_page(folder, capsys):
    for block in blocks("sh"):
        for line in block.replace("\\\n", "").splitlines():
            command, *arguments = re.findall(r'"[^"]*"|\S+', line)
            assert command == "detclip2"
            assert cli.main([argument.strip('"') for argument in arguments]) == 0
    capsys.readouterr()
    names = {path.name for path in (folder / "found").iterdir()}
    scene, clip = "scene.detections.jpg", "clip.detections.mp4"
    assert names == {scene, clip, f"{scene}.json", f"{clip}.json"}
    shutil.rmtree(folder / "found")
