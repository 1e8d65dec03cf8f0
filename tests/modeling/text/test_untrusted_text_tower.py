"""A folder with a text tower is data: nothing in it runs."""

import json
import pickle

import pytest
import torch
from transformers import BertConfig, BertModel

from detclip2.modeling.text.text_tower import load_text_model, load_tokenizer
from detclip2.utils.errors import UserError

SIZES = {
    "vocab_size": 20,
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


@pytest.fixture
def folder(tmp_path):
    """A text tower, with a program beside it that leaves a file when it runs."""
    folder = tmp_path / "tower"
    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    program = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit\n"
    (folder / "harmful.py").write_text(program)
    yield folder
    assert not (tmp_path / "ran").exists()


def change(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


AUTO_MAP = {"AutoConfig": "harmful.Config", "AutoModel": "harmful.Model"}


@pytest.mark.parametrize("pretrained", [True, False])
def test_code_of_the_folder_is_not_run(folder, pretrained):
    change(folder, auto_map=AUTO_MAP, model_type="harmful")
    with pytest.raises(UserError, match=f"the text tower in the folder {folder}"):
        load_text_model(str(folder), pretrained)


@pytest.mark.parametrize("auto_map", [AUTO_MAP, {"AutoModel": "others/repository--harmful.Model"}])
def test_a_known_model_needs_no_code_of_the_folder(folder, auto_map):
    change(folder, auto_map=auto_map)
    assert isinstance(load_text_model(str(folder)), BertModel)


def test_code_of_a_tokenizer_is_not_run(folder):
    content = {
        "auto_map": {"AutoTokenizer": ["harmful.Tokenizer", None]},
        "tokenizer_class": "HarmfulTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    change(folder, auto_map=AUTO_MAP, model_type="harmful")
    with pytest.raises(UserError, match=f"the text tower in the folder {folder}"):
        load_tokenizer(str(folder))


class Harmful:
    ran = False

    def __reduce__(self):
        return setattr, (Harmful, "ran", True)


@pytest.mark.parametrize("content", ["pickle", "tensors"])
def test_weights_that_need_pickle_are_refused(folder, content):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if content == "pickle":
        path.write_bytes(pickle.dumps(Harmful()))
    else:
        torch.save(BertModel(BertConfig(**SIZES)).state_dict(), path)
    with pytest.raises(UserError, match=r"it needs config.json and model.safetensors"):
        load_text_model(str(folder))
    assert not Harmful.ran


def test_a_kernel_of_the_hub_is_refused(folder):
    change(folder, attn_implementation="kernels-community/flash-attn")
    with pytest.raises(UserError, match=r"asks for the attention 'kernels-community/flash-attn'"):
        load_text_model(str(folder))


@pytest.mark.parametrize("name", ["../model.safetensors", "/models/model.safetensors"])
def test_parts_of_weights_outside_of_the_folder_are_refused(folder, name):
    index = {"metadata": {}, "weight_map": {"pooler.dense.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json: the weights .* are outside of the folder"):
        load_text_model(str(folder))


@pytest.mark.parametrize("load", [load_text_model, load_tokenizer])
def test_a_resource_is_inside_of_the_package(load):
    with pytest.raises(UserError, match="leads out of the folder"):
        load("resource://../../tower")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model_type": "bert", "x": ' + "[" * 100_000])
def test_a_deep_config_is_named(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"the text tower in the folder {folder}"):
        load_text_model(str(folder))
