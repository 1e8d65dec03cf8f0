from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from detclip2.engine.solver import BiasFactor, Factors, LayerDecay, PrefixFactors, TextTowerFactor
from detclip2.modeling.backbone import TimmBackbone
from tests.helpers.glip_reference import model as glip

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


def test_only_the_pretrained_part_of_the_text_tower_has_a_lower_rate(tiny_model):
    factor = TextTowerFactor(0.25)
    slow = {name for name, _ in tiny_model.named_parameters() if factor(name) == 0.25}
    assert slow == {
        f"text_tower.model.{n}" for n, _ in tiny_model.text_tower.model.named_parameters()
    }
    assert factor("text_tower.projection.weight") == 1.0


def test_rates_decrease_towards_the_first_layers():
    """Against the order of Swin's parameters, which is the order of its layers."""
    depths = (1, 2, 3, 1)
    backbone = TimmBackbone(
        "swin_tiny_patch4_window7_224", embed_dim=8, depths=depths, num_heads=(1, 1, 2, 2)
    )
    factor = LayerDecay(0.5, depths)
    names = [f"backbone.bottom_up.{name}" for name, _ in backbone.named_parameters()]
    own = [name for name in names if ".extractor." in name]
    exponents = [-np.log2(factor(name)) for name in own]
    assert set(exponents) == set(range(1, 7 + 2))
    assert exponents == sorted(exponents, reverse=True)
    for name, exponent in zip(own, exponents, strict=True):
        if "patch_embed" in name:
            assert exponent == 8
        if "layers_2.blocks.1." in name:
            assert exponent == 3
        if "layers_3.downsample" in name or "layers_3.blocks.0." in name:
            assert exponent == 1
    assert {factor(name) for name in set(names) - set(own)} == {1.0}
    assert factor("head.towers.weight") == 1.0
    with pytest.raises(ValueError, match=r"does not know .*layers_2\.blocks\.2"):
        LayerDecay(0.5, (1, 2, 2, 1))("backbone.bottom_up.extractor.layers_2.blocks.2.norm1.weight")


def test_factors_multiply():
    factor = Factors([TextTowerFactor(0.1), LayerDecay(0.5, (1, 1, 1, 1))])
    assert factor("text_tower.model.embed.weight") == pytest.approx(0.1)
    name = "backbone.bottom_up.extractor.patch_embed.proj.weight"
    assert factor(name) == pytest.approx(0.5**5)
    assert factor("head.bias") == 1.0


def test_layer_decay_matches_the_layers_of_swin():
    node = LazyConfig.load(str(CONFIG)).AdamW_layer_decay
    factor = instantiate(node.params.lr_factor_func)
    assert factor("backbone.bottom_up.extractor.patch_embed.proj.weight") == pytest.approx(0.8**13)
    assert factor("text_tower.model.embed.weight") == pytest.approx(0.1)


def test_factors_by_the_beginning_of_a_name():
    factor = PrefixFactors({"backbone.bottom_up.": 0.1, "backbone.": 0.5})
    names = ("backbone.bottom_up.a", "backbone.fpn", "head.backbone.", "backbone")
    assert [factor(name) for name in names] == [0.1, 0.5, 1.0, 1.0]


def test_the_optimizer_of_glip():
    """Biases in the broad sense learn twice as fast and do not decay; the text model at 0.1."""
    model = glip()
    node = LazyConfig.load(str(CONFIG)).AdamW_glip
    node.params.model = model
    optimizer = instantiate(node)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    biases = set()
    for name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        is_bias = "bias" in name.split(".")[-1]
        biases |= {name.split(".")[-1]} if is_bias else set()
        factor = (0.1 if name.startswith("text_tower.") else 1) * (2 if is_bias else 1)
        assert group["lr"] == pytest.approx(1e-4 * factor), name
        assert group["weight_decay"] == (0 if is_bias else 1e-4), name
    assert biases == {"bias", "in_proj_bias", "text_bias", "relative_position_bias_table"}


@pytest.mark.parametrize("prefix", ["", "module.", "detector.", "module.detector."])
def test_the_text_model_is_found_in_a_wrapped_model(prefix):
    factor = TextTowerFactor(0.25)
    assert factor(f"{prefix}text_tower.model.encoder.layer.0.output.dense.weight") == 0.25
    assert factor(f"{prefix}text_tower.projection.weight") == 1
    assert factor(f"{prefix}other_text_tower.model.weight") == 1
    assert BiasFactor(3.0)(f"{prefix}bias_net.weight") == 1
