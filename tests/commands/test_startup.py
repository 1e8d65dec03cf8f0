"""Modules that `predict` imports; they determine its start time, which is not measured here."""

import subprocess
import sys

import detectron2
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
@pytest.mark.skipif(
    "subset" not in detectron2.__version__, reason="the real Detectron2 imports all that it has"
)
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
    # The compiler and what comes with it; drawing needs no other library; no video is read.
    frameworks |= {"torch._inductor", "supervision", "matplotlib", "av", "cv2"}
    frameworks |= {"transformers", "scipy", "torch.onnx.symbolic_helper"}
    # Packages that import all they have with one of their modules.
    frameworks |= {"timm.models.vision_transformer", "timm.data.loader", "torchvision.transforms"}
    frameworks |= {"torchvision.datasets", "torchvision.models.resnet", "torchvision.io"}
    assert not frameworks & modules
    own = ("engine", "evaluation", "data.datasets", "data.hybrid_loader")
    assert not {f"detclip2.{name}" for name in own} & modules
    assert (tmp_path / "output" / "a.detections.png").exists()


@pytest.mark.processes
def test_wrong_paths_are_reported_before_torch_is_imported(tmp_path):
    code = LOADED.replace("raise SystemExit(code)", "")
    argv = ["predict", tmp_path / "no.jpg", "--names", "cat", "--output", tmp_path / "x"]
    command = [sys.executable, "-c", code, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no.jpg: this file does not exist" in done.stderr
    assert "torch" not in done.stdout.rsplit("LOADED", 1)[1].split()


ON_DEMAND = """
from detclip2.utils.packages_on_demand import import_on_demand
import_on_demand()
import sys
from timm.models.resnet import resnet18
assert "timm.models.vision_transformer" not in sys.modules
assert "torchvision.transforms" not in sys.modules
import timm, torchvision
assert timm.__version__ and timm.is_model("vit_tiny_patch16_224")
assert timm.create_model("resnet10t").num_classes == 1000
assert timm.data.IMAGENET_DEFAULT_MEAN[0] == 0.485
from torchvision.ops import roi_align, nms
from torchvision.models import resnet50
assert torchvision.__version__
from torchvision import transforms
assert transforms.ToTensor
"""


@pytest.mark.processes
def test_packages_are_there_when_they_are_used():
    command = [sys.executable, "-c", ON_DEMAND]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


COMPILER = """
from detclip2.utils.compiler_on_demand import import_compiler_on_demand
import_compiler_on_demand()
import_compiler_on_demand()
import sys, torch
from torchvision.ops import roi_align
assert "torch._inductor" not in sys.modules
sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
import torch._dynamo.config
assert torch._dynamo is sys.modules["torch._dynamo"]
assert torch._dynamo.utils.is_compile_supported("cpu") in (True, False)
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.zeros(1)).item() == 1
"""


@pytest.mark.processes
def test_the_compiler_is_there_when_it_is_used():
    command = [sys.executable, "-c", COMPILER]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
