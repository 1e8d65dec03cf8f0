"""Modules that `predict` imports; they determine its start time, which is not measured here."""

import subprocess
import sys

import pytest

LOADED = """
import sys
from detclip2 import cli
code = cli.main(sys.argv[1:])
print("LOADED", *sorted(sys.modules))
raise SystemExit(code)
"""


def loaded(*argv):
    """The modules that are loaded after a command."""
    command = [sys.executable, "-c", LOADED, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


@pytest.mark.processes
def test_prediction_imports_no_training_code(nano_folder, tmp_path):
    from PIL import Image

    from detclip2.inference.predictor import OpenVocabularyPredictor

    files = nano_folder / "config.yaml", nano_folder / "model.safetensors"
    OpenVocabularyPredictor(*files, device="cpu").encode(["cat"]).save(tmp_path / "v.safetensors")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    output = ["--output", tmp_path / "output", "--model", nano_folder, "--device", "cpu"]
    modules = loaded(
        "predict", tmp_path / "a.png", "--vocabulary", tmp_path / "v.safetensors", *output
    )
    frameworks = {"tensorboard", "lvis", "webdataset", "pandas", "spacy", "nltk", "wandb"}
    assert not frameworks & modules
    own = ("engine", "evaluation", "data.datasets", "data.hybrid_loader")
    assert not {f"detclip2.{name}" for name in own} & modules
    assert (tmp_path / "output" / "a.detections.png").exists()
