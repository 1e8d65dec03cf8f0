"""What learns: parts of a model, or low-rank matrices; the rest stays as it is, statistics too."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from detclip2.engine.learning import set_up_learning
from detclip2.utils.errors import UserError
from detclip2.utils.low_rank import merged
from tests.helpers.tiny_training import tiny_config


def keys(learn=None, lora=None):
    return OmegaConf.create({"learn": learn, "lora": lora})


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.body[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x))


def test_parts_learn_and_the_rest_keeps_its_statistics():
    model = Network()
    set_up_learning(model, keys(["head.0.", "body.0.bias"]))
    for one in (model, copy.deepcopy(model)):
        one.eval().train()
        before = copy.deepcopy(one.state_dict())
        learning = {name for name, p in one.named_parameters() if p.requires_grad}
        assert learning == {"head.0.weight", "head.0.bias"}  # what was frozen stays frozen
        assert one.training
        assert one.head[1].training
        assert not any(module.training for module in one.body.modules())
        assert not one.head[2].training
        optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], 1.0)
        one(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        changed = {n for n, t in one.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == learning


def test_without_keys_everything_learns():
    model = Network()
    set_up_learning(model, keys())
    assert model.train().body[1].training


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (keys(["tail."]), r"train\.learn is \['tail\.'\]: no parameter"),
        (keys(["body.0.bias"]), "no parameter"),
        (keys("head."), "expected a list of beginnings"),
        (keys([""]), "expected a list of beginnings"),
        (keys(["head."], {"rank": 8}), "give one of them"),
        (keys(lora={"rank": 0}), "expected 1 to 256"),
        (keys(lora={"rank": 8, "alpha": 1}), "expected its rank alone"),
    ],
)
def test_mistakes_are_reported(chosen, sentence):
    with pytest.raises(UserError, match=sentence):
        set_up_learning(Network(), chosen)


@pytest.mark.slow  # peft takes seconds to import
def test_low_rank_matrices_learn_alone(tmp_path):
    pytest.importorskip("peft")
    cfg = tiny_config(tmp_path)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    plain = copy.deepcopy(model)
    set_up_learning(model, keys(lora={"rank": 2}))
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)
    layers = {name.partition(".lora_")[0] for name in learning}
    for part in (
        "backbone.bottom_up.",
        "text_tower.model.",
        "head.box_tower.",
        "head.class_tower.",
    ):
        assert any(name.startswith(part) for name in layers), part
    state = merged(model.state_dict())
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)
    plain.load_state_dict(merged(model.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    model.eval(), plain.eval()
    with torch.no_grad():
        for ours, theirs in zip(
            model.head([*model.backbone(images).values()]).values(),
            plain.head([*plain.backbone(images).values()]).values(),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        phrases = ["dog", "red apple"]
        ours, theirs = model.encode_phrases(phrases), plain.encode_phrases(phrases)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
