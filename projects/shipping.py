"""What the tools that make the models of the package share."""

from pathlib import Path

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig

from detclip2.config import get_config
from detclip2.inference.publish import AUTO_CONFIG_NAME, MODEL_TYPE
from detclip2.utils.files import write_json
from detclip2.utils.model_folder import CONFIG_NAME
from detclip2.utils.weights import read_weights


def halved(weights: Path) -> dict[str, torch.Tensor]:
    """The weights with half the bytes; counters stay as they are."""
    state = read_weights(weights)
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


def forget_machine(cfg: DictConfig) -> None:
    """Replace the paths of the machine that trained by the defaults."""
    defaults = get_config("train.py").train
    cfg.train.update({key: defaults[key] for key in ("init_checkpoint", "output_dir")})


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write the config of a model, and the file by which transformers' auto classes know it."""
    LazyConfig.save(cfg, str(folder / CONFIG_NAME))
    write_json(folder / AUTO_CONFIG_NAME, {"model_type": MODEL_TYPE})
