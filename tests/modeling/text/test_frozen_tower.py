"""A frozen tower gives what a TextTower gives, and encodes each phrase once."""

import pytest
import torch

from detclip2.modeling.text.frozen_tower import FrozenTextTower
from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer

NANO = "resource://text_tower_nano"


@pytest.fixture
def towers():
    made = []
    for kind in (TextTower, FrozenTextTower):
        torch.manual_seed(0)
        made.append(kind(load_text_model(NANO, pretrained=False), load_tokenizer(NANO), None))
    return made[0].eval(), made[1].train()


def test_without_a_projection_the_embeddings_are_the_states(towers):
    plain, _ = towers
    assert plain.embed_dim == 128
    assert not list(plain.projection.parameters())
    tokens = plain.tokenize(["red apple"])
    torch.testing.assert_close(plain(["red apple"]), plain.encode(tokens)[:, -1])
    assert plain([]).shape == (0, 128)


def test_it_equals_a_tower_and_does_not_learn(towers):
    plain, frozen = towers
    with torch.no_grad():
        expected = plain(["dog", "red apple", "dog"])
    for _ in range(2):
        found = frozen(["dog", "red apple", "dog"])
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
    assert frozen([]).shape == (0, 128)
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())


def test_phrases_are_encoded_once_and_at_full_precision(towers):
    plain, frozen = towers
    seen = []
    encode = frozen.encode
    frozen.encode = lambda tokens: seen.append(len(tokens["input_ids"])) or encode(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        frozen(["dog", "cat"])
        found = frozen(["cat", "apple", "dog"])
        assert frozen([]).dtype == found.dtype == torch.float32
    assert seen == [2, 1]
    with torch.no_grad():
        torch.testing.assert_close(found, plain(["cat", "apple", "dog"]))


def test_what_it_keeps_is_limited(towers, monkeypatch):
    """Captions do not come again; phrases of the step that clears it are encoded anew."""
    _, frozen = towers
    monkeypatch.setattr("detclip2.modeling.text.phrase_tokens.MAX_KNOWN", 3)
    first = frozen(["dog", "cat"])
    found = frozen(["cat", "apple", "bus"])
    assert set(frozen._known) == {"cat", "apple", "bus"}
    torch.testing.assert_close(found[0], first[1])
    assert frozen(["a", "b", "c", "d"]).shape == (4, 128)  # one step may have more


def test_other_weights_give_other_embeddings(towers):
    _, frozen = towers
    before = frozen(["dog"])
    state = {key: value * 1.5 for key, value in frozen.state_dict().items()}
    frozen.load_state_dict(state)
    assert not torch.allclose(frozen(["dog"]), before)
    assert frozen.double()(["dog"]).dtype == torch.float64


def test_a_bert_needs_no_pooler():
    import transformers

    config = transformers.BertConfig(
        vocab_size=8000,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    tower = FrozenTextTower(transformers.BertModel(config), load_tokenizer(NANO), None, 16, "mean")
    assert not [key for key in tower.state_dict() if "pooler" in key]
    assert tower(["dog"]).shape == (1, 32)
