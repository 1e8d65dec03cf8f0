"""What the tools that make the models of the package share."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from detclip2.config import get_config
from detclip2.utils.weights import read_weights


def halved(weights: Path) -> dict[str, torch.Tensor]:
    """The weights with half the bytes; counters stay as they are."""
    state = read_weights(weights)
    return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}


def forget_machine(cfg: DictConfig) -> None:
    """Replace the paths of the machine that trained by the defaults."""
    defaults = get_config("train.py").train
    cfg.train.update({key: defaults[key] for key in ("init_checkpoint", "output_dir")})
