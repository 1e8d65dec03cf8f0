"""Write the table of configs in projects/DetCLIPv2/README.md.

    python scripts/model_zoo.py            # write it
    python scripts/model_zoo.py --check    # 1 if it is not what would be written

A row for each runnable config. Its description is its first line, parameters and GFLOPs from its
model, built without memory for weights; the paper's numbers and ours from ``model_zoo.json`` beside
the table, whose entries are

    "CONFIG": {"paper": "...", "ours": {"result", "command", "date", "machine"}}

and the time of an image relative to the reference of scripts/benchmark.py, from what that script
has kept in ``docs/performance.json``. What is absent stays "-" or "not trained".
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import ImageList
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.utils.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "projects" / "DetCLIPv2"
TIMES = ROOT / "docs" / "performance.json"
BEGIN = "<!-- the table is written by scripts/model_zoo.py -->"
END = "<!-- end of the table -->"
COLUMNS = (
    "config", "what it is", "image + text (M)", "input", "GFLOPs", "relative time", "paper", "ours"
)  # fmt: skip
NAMES = 80  # names of the vocabulary
# As configs/models and scripts/benchmark.py call the models, by their backbone.
MODELS = {
    "resnet10t": "nano",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_large_patch4_window12_384": "swin_l",
}
# The text tower that the configs name is CLIP's of ViT-B/32, whose sizes are the defaults.
CLIP = "openai/clip-vit-base-patch32"


class Detector(nn.Module):
    """The image side of the model, up to the similarities with encoded names."""

    def __init__(self, model: DetCLIPv2) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, H, W) and (C, D) -> S (1, K, C), deltas (1, K, 4), centerness (1, K)."""
        images = ImageList(image, [(image.shape[-2], image.shape[-1])])
        features = self.model.backbone(images.tensor)
        outputs = self.model.head([features[name] for name in self.model.head_in_features])
        similarity = self.model.align(outputs["regions"], vocabulary)
        return similarity, outputs["deltas"], outputs["centerness"]


def build(node: DictConfig) -> DetCLIPv2:
    """A model whose weights have shapes but no values."""
    node = node.copy()
    with torch.device("meta"):
        if node.text_tower.model.path == CLIP:
            node.text_tower.model = CLIPTextModel(CLIPTextConfig())
            node.text_tower.tokenizer = None
        elif not node.text_tower.model.path:  # that of scripts/distil_text_tower.py
            node.text_tower.model.update(path="resource://text_tower_photo", pretrained=False)
        return instantiate(node).eval()


def input_size(cfg: DictConfig) -> tuple[int, int]:
    """Height and width of an image in evaluation: drawn scenes are square, real images wide."""
    if "world" in cfg:
        return cfg.world.size, cfg.world.size
    return cfg.inference.min_size, cfg.inference.max_size


def gflops(model: DetCLIPv2, size: tuple[int, int]) -> float:
    """Thousand million multiply-adds of an image with `NAMES` names, in products and convolutions.

    This is what detection papers call GFLOPs. The text tower is not in it: names are encoded once.
    torch's counter is taken and not fvcore's, which needs real weights and images.
    """
    step = max(model.backbone.size_divisibility, 1)
    padded = [-(-length // step) * step for length in size]
    # Tensors on the CPU without memory: the meta device does not support autocast.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # With gradients the model has no fast paths for inference: plain sums are counted. So are the
    # products of attention: the counter does not support its fused form for CPUs.
    products = sdpa_kernel(SDPBackend.MATH)
    with fake, products, torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model = model.to_empty(device="cpu")
        image = torch.empty(1, 3, *padded)
        Detector(model)(image, torch.empty(NAMES, model.embed_dim))
    return counter.get_total_flops() / 2 / 1e9  # it counts multiplications and additions separately


def count(module: nn.Module) -> float:
    """Parameters in millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def summary(path: Path) -> str:
    """The first sentence of a config's docstring."""
    text = path.read_text(encoding="utf-8").split('"""')[1]
    return " ".join(text.strip().split("\n\n")[0].split()).rstrip(".").replace("|", "/")


def sizes_of(cfg: DictConfig, known: dict[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    """Parameters, input and GFLOPs; the same model at the same size is counted once."""
    size = input_size(cfg)
    key = OmegaConf.to_yaml(
        OmegaConf.create([cfg.model.backbone, cfg.model.head, cfg.model.text_tower], flags=None)
    ) + str(size)
    if key not in known:
        model = build(cfg.model)
        text = count(model.text_tower)
        parameters = f"{count(model) - text:.1f} + {text:.1f}"
        known[key] = (parameters, f"{size[0]} x {size[1]}", f"{gflops(model, size):.1f}")
    return known[key]


def relative_times() -> dict[tuple[str, tuple[int, int]], float]:
    """Model and input size -> relative time of an image with `NAMES` cached names."""
    if not TIMES.exists():
        return {}
    measured = json.loads(TIMES.read_text(encoding="utf-8")).get("inference", {"result": []})
    alone = {"names": NAMES, "text": "cached", "batch": 1}
    return {
        (row["model"], tuple(row["size"])): row["ratio"]["median"]
        for row in measured["result"]
        if alone.items() <= row.items() and row["survivors"] < 10**6
    }


def relative_time(cfg: DictConfig, times: dict[tuple[str, tuple[int, int]], float]) -> str:
    """The relative time of a config's model at its input."""
    model = MODELS.get(cfg.model.backbone.bottom_up.name, "")
    time = times.get((model, input_size(cfg)))
    return "-" if time is None else f"{time:.2f}"


def ours(entry: dict[str, str] | None) -> str:
    """A result with its command, date and machine."""
    if not entry:
        return "not trained"
    return f"{entry['result']} (`{entry['command']}`, {entry['date']}, {entry['machine']})"


def table(zoo: dict[str, dict[str, Any]]) -> str:
    """The table of all configs, in the order of their names."""
    known: dict[str, tuple[str, str, str]] = {}
    times = relative_times()
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    paths = sorted((PROJECT / "configs").glob("*.py"))
    for stranger in zoo.keys() - {path.stem for path in paths}:
        raise SystemExit(f"model_zoo.json: there is no config {stranger!r}")
    for path in paths:
        cfg = LazyConfig.load(str(path))
        entry = zoo.get(path.stem, {})
        rows.append(
            (
                f"[{path.stem}](configs/{path.name})",
                summary(path),
                *sizes_of(cfg, known),
                relative_time(cfg, times),
                entry.get("paper", "-"),
                ours(entry.get("ours")),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str] | None = None) -> int:
    """Write the table, or compare it; returns 1 if it differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare the table")
    args = parser.parse_args(argv)
    for variable in ("DETECTRON2_DATASETS", "DETCLIP2_TEST_DATA"):
        os.environ.setdefault(variable, ".")  # configs need these variables; no file is read
    readme = PROJECT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    zoo = json.loads((PROJECT / "model_zoo.json").read_text(encoding="utf-8"))
    new = f"{before}{BEGIN}\n{table(zoo)}\n{END}{after}"
    if args.check:
        print("the table is up to date" if new == text else "the table differs from the configs")
        return int(new != text)
    write_whole(readme, lambda file: file.write(new.encode()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
