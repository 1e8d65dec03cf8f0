"""The file of a tuning makes the tuned model of the one that the tuning started from."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from detclip2.engine.learning import set_up_learning
from detclip2.inference.tuned_file import Tuned
from detclip2.utils.errors import UserError
from detclip2.utils.low_rank import merged
from tests.helpers.tiny_glip import tiny_glip
from tests.helpers.tiny_training import tiny_config

NAMES = ("red apple", "dog")


@pytest.fixture(scope="module")
def detclip(tmp_path_factory):
    torch.manual_seed(0)
    return instantiate(tiny_config(tmp_path_factory.mktemp("run")).model)


def tuned_model(base, names=(), **keys):
    """A copy of the model in which what learns has learnt."""
    model = copy.deepcopy(base)
    if names:
        model.text_encoder.add_prompt(names)
    set_up_learning(model, OmegaConf.create({"learn": None, "lora": None, **keys}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)
    return model


LEVELS = {
    "head": {"learn": ["head.box.", "head.centerness.", "align.", "token_head."]},
    "prompt": {"learn": ["text_tower.phrase_offsets.", "text_tower.token_offsets."]},
    "lora": {"lora": {"rank": 2}},
}


@pytest.mark.parametrize("level", ["head", "prompt", pytest.param("lora", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["detclip", "glip"])
def test_a_round_trip(kind, level, detclip, tmp_path):
    if level == "lora":
        pytest.importorskip("peft")
    base = detclip if kind == "detclip" else tiny_glip()
    names = NAMES if level == "prompt" else ()
    model = tuned_model(base, names, **LEVELS[level])
    path = tmp_path / "tuned.safetensors"
    Tuned.of(model, names).write(path)
    assert path.stat().st_size < 100_000
    again = copy.deepcopy(base)
    Tuned.read(path).put_into(again, path)
    expected, found = merged(model.state_dict()), again.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=name)
    assert any(not torch.equal(t, found[n]) for n, t in base.state_dict().items()) or names

    other = copy.deepcopy(base)
    with torch.no_grad():
        other.backbone.fpn_output3.bias += 1
    with pytest.raises(UserError, match="belongs to another model"):
        Tuned.read(path).put_into(other, path)


def test_other_files_are_refused(detclip, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        Tuned.read(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no file of a tuning"):
        Tuned.read(path)
    Tuned.of(tuned_model(detclip, **LEVELS["head"])).write(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="cannot be read"):
        Tuned.read(path)
    tuned = Tuned.of(tuned_model(detclip, **LEVELS["head"]))
    tuned.state["head.box.bias"] = torch.zeros(9)
    with pytest.raises(UserError, match="does not fit the model"):
        tuned.put_into(copy.deepcopy(detclip), path)
