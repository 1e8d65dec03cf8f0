"""Time from the start of a command to its end."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from detclip2.export import export_onnx, write_onnx
from detclip2.inference.predictor import OpenVocabularyPredictor

from .models import MODELS, image_of
from .timing import spread


def measure(repeats: int) -> dict[str, Any]:
    """Wall-clock seconds of ``detclip2 --help``, and of ``predict`` and ``run`` on one image."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        cli = [sys.executable, "-m", "detclip2.cli"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "detclip2 --help": [*cli, "--help"],
            "detclip2 predict": [*cli, *predict(scratch, "whole")],
            "detclip2 predict, model without text tower": [*cli, *predict(scratch, "without")],
            "detclip2 run": [*cli, *run(scratch)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
    # The first run reads files from disk, which are then in memory.
    return {name: {"first": round(t[0], 2), **spread(t[1:])} for name, t in times.items()}


def prepare(folder: Path) -> None:
    """Write a nano model (with and without text tower, exported), a vocabulary and an image."""
    inference = {"min_size": 256, "max_size": 480, "score_threshold": 0.0, "batch_size": 1}
    cfg = OmegaConf.create({"inference": inference}, flags={"allow_objects": True})
    cfg.model = LazyConfig.load(str(MODELS)).nano
    torch.manual_seed(0)
    state = instantiate(cfg.model).state_dict()
    for kind in ("whole", "without"):
        if kind == "without":
            cfg.model.text_tower = None
        (folder / kind).mkdir()
        LazyConfig.save(cfg, str(folder / kind / "config.yaml"))
        save_file(state, folder / kind / "model.safetensors")
    files = (folder / "whole" / name for name in ("config.yaml", "model.safetensors"))
    names = ["cat", "dog", "red apple"]
    predictor = OpenVocabularyPredictor(*files, device="cpu")
    predictor.encode(names).save(folder / "names.safetensors")
    write_onnx(export_onnx(predictor), folder / "graph.onnx")
    image = image_of((480, 640)).permute(1, 2, 0).numpy()
    Image.fromarray(image).save(folder / "image.jpg")


def predict(folder: str, kind: str) -> list[str]:
    """The command's arguments."""
    vocabulary, output = f"{folder}/names.safetensors", f"{folder}/output"
    chosen = ["--vocabulary", vocabulary, "--model", f"{folder}/{kind}", "--device", "cpu"]
    return ["predict", f"{folder}/image.jpg", *chosen, "--output", output]


def run(folder: str) -> list[str]:
    """The arguments for the exported model."""
    vocabulary = f"{folder}/names.safetensors"
    return ["run", f"{folder}/graph.onnx", f"{folder}/image.jpg", "--vocabulary", vocabulary]
