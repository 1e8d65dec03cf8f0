from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from detclip2.engine.optim import TextTowerFactor

CONFIG = Path(__file__).parents[2] / "configs" / "optim.py"


def test_the_optimizer_of_the_paper(tiny_model):
    node = LazyConfig.load(str(CONFIG)).AdamW
    node.params.model = tiny_model
    optimizer = instantiate(node)
    assert isinstance(optimizer, torch.optim.AdamW)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in tiny_model.named_parameters() if p.requires_grad}
    assert len(group_of) == len(trainable)
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    of_norms = {id(p) for m in tiny_model.modules() if isinstance(m, norms) for p in m.parameters()}
    assert of_norms
    for name, parameter in trainable.items():
        group = group_of[id(parameter)]
        factor = 0.1 if name.startswith("text_tower.model.") else 1.0
        assert group["lr"] == pytest.approx(2.8e-4 * factor), name
        assert group["weight_decay"] == (0 if id(parameter) in of_norms else 0.05), name
        assert group["betas"] == (0.9, 0.999)
    assert {group["lr"] for group in optimizer.param_groups} == {2.8e-4, 2.8e-5}


def test_only_the_pretrained_part_of_the_text_tower_is_slow(tiny_model):
    factor = TextTowerFactor(0.25)
    slow = {name for name, _ in tiny_model.named_parameters() if factor(name) == 0.25}
    assert slow == {
        f"text_tower.model.{n}" for n, _ in tiny_model.text_tower.model.named_parameters()
    }
    assert factor("text_tower.projection.weight") == 1.0
