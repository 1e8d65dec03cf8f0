"""From the start of a process to what it prints or writes."""

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

from benchmarks.models import MODELS, image_of
from benchmarks.timing import spread
from detclip2.predictor import OpenVocabularyPredictor


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of ``detclip2 --help`` and of ``detclip2 predict`` on one picture, by the clock."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        argv = prepared(folder)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
            "detclip2 --help": [sys.executable, "-m", "detclip2.cli", "--help"],
            "detclip2 predict": [sys.executable, "-m", "detclip2.cli", *argv],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                times[name].append(time.perf_counter() - start)
    # The first of each reads files that the others find in memory.
    return {name: {"first": round(t[0], 2), **spread(t[1:])} for name, t in times.items()}


def prepared(folder: Path) -> list[str]:
    """A nano model's folder, a saved vocabulary and a picture -> the command's arguments."""
    cfg = OmegaConf.create(
        {"inference": {"min_size": 256, "max_size": 480, "score_threshold": 0.0, "batch_size": 1}},
        flags={"allow_objects": True},
    )
    cfg.model = LazyConfig.load(str(MODELS)).nano
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_file(model.state_dict(), folder / "model.safetensors")
    predictor = OpenVocabularyPredictor(
        folder / "config.yaml", folder / "model.safetensors", device="cpu"
    )
    predictor.encode(["cat", "dog", "red apple"]).save(folder / "names.safetensors")
    picture = image_of((480, 640)).permute(1, 2, 0).numpy()
    Image.fromarray(picture).save(folder / "picture.jpg")
    names = ("predict", "picture.jpg", "--vocabulary", "names.safetensors", "--output", "output")
    paths = [name if name[0] == "-" or name == "predict" else str(folder / name) for name in names]
    return [*paths, "--model", str(folder), "--device", "cpu"]
