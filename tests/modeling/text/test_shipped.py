"""The text models of the resources against transformers' own classes."""

import pytest
import torch
import transformers

from detclip2.modeling.text.shipped import ShippedTokenizer, shipped_text_model
from detclip2.resources import RESOURCES

FOLDERS = {
    "text_tower_nano": transformers.CLIPTextModel,
    "text_tower_photo": transformers.BertModel,
}
TEXTS = ["dog", "a very, very long name of a thing " * 3, "红苹果 пёс", "", "fire-engine's"]
PADDED = {"padding": True, "truncation": True, "max_length": 16, "return_tensors": "pt"}


@pytest.fixture(params=FOLDERS)
def both(request):
    """Our model and that of transformers, with its weights; the folder."""
    folder = str(RESOURCES / request.param)
    kind = FOLDERS[request.param]
    more = {"add_pooling_layer": False} if kind is transformers.BertModel else {}
    torch.manual_seed(0)
    theirs = kind(transformers.AutoConfig.from_pretrained(folder), **more).float()
    ours = shipped_text_model(folder)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs, folder


def test_states_of_tokens_are_equal(both):
    ours, theirs, folder = both
    tokens = ShippedTokenizer(folder)(TEXTS, **PADDED)
    arguments = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    expected = theirs.eval()(**arguments).last_hidden_state
    real = tokens["attention_mask"].bool()
    found = ours.eval()(**arguments).last_hidden_state
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    assert found.std() > 0.1


def test_gradients_are_equal(both):
    ours, theirs, folder = both
    tokens = ShippedTokenizer(folder)(TEXTS, **PADDED)
    arguments = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    weights = tokens["attention_mask"][..., None] * torch.linspace(0, 1, ours.config.hidden_size)
    for model in (ours, theirs):
        (model.train()(**arguments).last_hidden_state * weights).sum().backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-3, rtol=1e-3)


def test_initial_weights_of_a_seed_are_equal(both):
    torch.manual_seed(0)
    fresh, theirs = shipped_text_model(both[2]).state_dict(), both[1].state_dict()
    assert fresh.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(fresh[name], tensor), name


@pytest.mark.parametrize("folder", FOLDERS)
def test_tokens_are_those_of_transformers(folder):
    folder = str(RESOURCES / folder)
    ours, theirs = ShippedTokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    wanted = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
    for more in ({**PADDED, **wanted}, {"truncation": True, "max_length": 5}, wanted):
        expected, found = theirs(TEXTS, **more), ours(TEXTS, **more)
        assert found.keys() == expected.keys() - {"token_type_ids"}
        for name, values in found.items():
            if "return_tensors" in more:
                assert torch.equal(values, expected[name]), name
            else:
                assert values == expected[name], name
    assert ours(TEXTS[1])["input_ids"] == theirs(TEXTS[1])["input_ids"]
    plain = theirs(TEXTS, add_special_tokens=False)["input_ids"]
    assert ours(TEXTS, add_special_tokens=False)["input_ids"] == plain
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add()
    assert ours.unk_token_id == theirs.unk_token_id
