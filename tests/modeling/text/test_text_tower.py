import json
import math
import socket

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from detclip2.modeling.text.text_tower import (
    TextTower,
    fresh_text_model,
    groups_by_length,
    load_text_model,
    load_tokenizer,
)
from detclip2.utils.errors import UserError

NANO = "resource://text_tower_nano"
PHRASES = [
    "red apple",
    "a",
    "a very long phrase about a dog that runs after a ball on the beach at sunset in the rain",
    "пожарная машина",
    "消防车",
    "سيارة إطفاء",
    "🚒",
    "x" * 3000,
    "  two   spaces ",
    "<end>",
]
SMALL = {
    "vocab_size": 60,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tower(pooling="end_of_text", max_length=16, seed=0):
    torch.manual_seed(seed)
    model = load_text_model(NANO, pretrained=False)
    return TextTower(model, load_tokenizer(NANO), 8, max_length, pooling).eval()


@pytest.fixture(scope="module")
def towers():
    return {pooling: tower(pooling) for pooling in ("end_of_text", "mean")}


@pytest.mark.parametrize("pooling", ["end_of_text", "mean"])
@torch.no_grad()
def test_a_batch_equals_its_phrases_one_by_one(towers, pooling):
    """Padding has no effect, and phrases do not attend to each other."""
    together = towers[pooling](PHRASES)
    assert together.shape == (len(PHRASES), 8)
    assert together.isfinite().all()
    for phrase, embedding in zip(PHRASES, together, strict=True):
        torch.testing.assert_close(towers[pooling]([phrase])[0], embedding, atol=1e-5, rtol=1e-4)
    distances = torch.cdist(together, together) + torch.eye(len(PHRASES))
    assert distances.min() > 1e-3, "two phrases have one embedding"


@pytest.mark.parametrize("pooling", ["end_of_text", "mean"])
@torch.no_grad()
def test_pooling_equals_a_loop(towers, pooling):
    t = towers[pooling]
    for phrase in PHRASES[:4]:
        ids = t.tokenizer(phrase, truncation=True, max_length=16)["input_ids"]
        [states] = t.model(input_ids=torch.tensor([ids])).last_hidden_state
        # the mean is over the phrase's own tokens, between start and end
        pooled = states[-1] if pooling == "end_of_text" else sum(states[1:-1]) / (len(ids) - 2)
        expected = [
            math.fsum((w * x).item() for w, x in zip(row, pooled, strict=True))
            for row in t.projection.weight
        ]
        assert t([phrase])[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_few_long_phrases_do_not_pad_all_others(towers):
    """Guards the tokens that a step of image-text pairs encodes: captions among nouns."""
    t, seen = towers["end_of_text"], []
    nouns = [f"{colour} {noun}" for colour in ("red", "blue", "old") for noun in ("cat", "dog")]
    caption = "a red cat and an old dog that sit by the sea in the sun"
    handle = t.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    t([caption, *nouns])
    t(nouns)
    handle.remove()
    short, long, alone = seen
    assert (short[0], long[0]) == (6, 1)
    assert short == alone  # as if there were no caption
    assert long[1] >= 2 * short[1]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], [[0]]),
        ([5, 5, 5], [[0, 1, 2]]),
        ([16, 4, 4, 5], [[1, 2, 3], [0]]),
        ([16, 15, 14], [[0, 1, 2]]),  # a second call would save one token in 48
    ],
)
def test_phrases_are_grouped_where_that_saves_a_quarter(lengths, expected):
    assert groups_by_length(lengths) == expected


def test_truncation_keeps_start_and_end():
    tokenizer = load_tokenizer(NANO)
    start, end = tokenizer("")["input_ids"]
    for phrase in PHRASES:
        ids = tokenizer([phrase], truncation=True, max_length=5)["input_ids"][0]
        assert len(ids) <= 5
        assert (ids[0], ids[-1]) == (start, end)


@torch.no_grad()
def test_truncated_tokens_do_not_matter():
    t = tower(max_length=6)
    torch.testing.assert_close(*t(["dog " * 9, "dog " * 30]))
    assert not torch.equal(*t(["dog", "dog " * 30]))


def test_no_phrases():
    t = tower()
    assert t([]).shape == (0, 8)
    assert t(()).shape == (0, 8)


def test_no_phrases_have_the_type_of_phrases():
    """Processes gather phrases in one tensor, also if one of them has none."""
    t = tower()
    with torch.autocast("cpu", torch.bfloat16):
        assert t([]).dtype == t(["dog"]).dtype == torch.bfloat16
    assert t([]).dtype == torch.float32


def test_a_fresh_text_model_starts_as_a_bag_of_words_and_learns_more():
    torch.manual_seed(0)
    t = TextTower(fresh_text_model(NANO), load_tokenizer(NANO), 64, pooling="mean")

    def cosines(*phrases):
        embeddings = torch.nn.functional.normalize(t(phrases), dim=-1)
        return embeddings @ embeddings.T

    apart = cosines("red apple", "fire engine", "drum", "owl") - torch.eye(4)
    assert apart.abs().max() < 0.5
    related = cosines("red apple", "red engine", "drum")
    assert related[0, 1] > related[0, 2] + 0.2
    order = ("dog bites man", "man bites dog")
    assert cosines(*order)[0, 1].item() == pytest.approx(1, abs=1e-5)
    optimizer = torch.optim.AdamW(t.parameters(), lr=1e-2)
    for _ in range(5):
        loss = cosines(*order)[0, 1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert cosines(*order)[0, 1] < 0.9


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="'max'; expected 'end_of_text' or 'mean'"):
        tower("max")


def test_nano_resources_load_without_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert tower()(["dog"]).shape == (1, 8)
    for load in (load_text_model, load_tokenizer):
        with pytest.raises(UserError):
            load("someone/some-text-model")


def save_tokenizer(folder):
    """A word-level tokenizer in place of the real one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "<start>": 1, "<end>": 2, "?": 3, "dog": 4, "cat": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)


def clip_text():
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**SMALL, **SPECIAL))


def clip():
    text = {**SMALL, **SPECIAL}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))


def siglip():
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    config = transformers.SiglipConfig(text_config={**SMALL, **SPECIAL}, vision_config=vision)
    return transformers.SiglipModel(config)


def bert():
    return transformers.BertModel(transformers.BertConfig(**SMALL, pad_token_id=0))


def t5():
    config = transformers.T5Config(
        vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    return transformers.T5Model(config)


TEXT_PARTS = {
    clip_text: lambda model: model,
    clip: lambda model: model.text_model,
    siglip: lambda model: model.text_model,
    bert: lambda model: model,
    t5: lambda model: model.get_encoder(),
}


@pytest.mark.parametrize("make", TEXT_PARTS)
@torch.no_grad()
def test_text_models_load_from_a_folder(make, tmp_path):
    torch.manual_seed(0)
    whole = make().eval()
    whole.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = load_text_model(str(tmp_path)).eval()
    tokenizer = load_tokenizer(str(tmp_path))
    expected = TEXT_PARTS[make](whole).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not any("vision" in name or "decoder" in name for name in model.state_dict())
    for pooling in ("end_of_text", "mean"):
        t = TextTower(model, tokenizer, 4, pooling=pooling)
        together = t(["dog", "cat dog cat"])
        torch.testing.assert_close(together[0], t(["dog"])[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[1], t(["cat dog cat"])[0], atol=1e-5, rtol=1e-4)
        assert t.identity == f"{model.config.model_type}-8"
    random = load_text_model(str(tmp_path), pretrained=False)
    assert {k: v.shape for k, v in random.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


def test_a_missing_file_of_a_folder_is_named(tmp_path):
    folder = str(tmp_path)
    with pytest.raises(UserError, match=r"needs config.json and model.safetensors") as error:
        load_text_model(folder)
    assert folder in str(error.value)
    with pytest.raises(UserError, match=r"needs tokenizer.json") as error:
        load_tokenizer(folder)
    assert folder in str(error.value)
    clip_text().save_pretrained(folder)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(UserError, match=r"needs config.json and model.safetensors"):
        load_text_model(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"no file named model.safetensors"):
        load_text_model(folder)
    load_text_model(folder, pretrained=False)


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"model_type": "unheard of"})])
def test_a_broken_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_text_model(str(tmp_path))


@pytest.mark.parametrize("load", [load_text_model, load_tokenizer])
@pytest.mark.parametrize("path", ["someone/some-text-model", "/no/such/folder"])
def test_a_missing_folder_is_reported_with_the_files_to_put_there(load, path):
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert f"{path!r} is neither a folder nor in the local cache" in message
    assert ("model.safetensors" if load is load_text_model else "tokenizer.json") in message
    assert "text_tower.model.path" in message
    assert f"hf download {path}" in message
