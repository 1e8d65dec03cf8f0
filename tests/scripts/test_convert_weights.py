"""Features before and after, with randomly initialised models of the libraries."""

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from detclip2.modeling.backbone import TimmBackbone
from detclip2.modeling.text.text_tower import load_text_model, load_tokenizer, resolve_folder
from detclip2.utils.errors import UserError
from scripts import convert_weights as script

NAME = "swin_tiny_patch4_window7_224"
SMALL = {"embed_dim": 8, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 2, 4)}


@pytest.fixture
def image():
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def randomised(model):
    """With all weights changed from their initial values, biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def features_of(file, image, **settings):
    backbone = TimmBackbone(NAME, drop_path_rate=0.0, weights=str(file), **settings, **SMALL)
    with torch.no_grad():
        return list(backbone.eval()(image).values())


def assert_same(features, expected):
    assert len(features) == len(expected) == 3
    for one, other in zip(features, expected, strict=True):
        assert one.std() > 0.01
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_swin_of_timm_and_of_its_authors(tmp_path, image):
    model = randomised(timm.create_model(NAME, num_classes=5, **SMALL))
    with torch.no_grad():
        expected = list(model.forward_intermediates(image, intermediates_only=True))[-3:]
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    unused = script.convert_swin(
        tmp_path / "timm.safetensors", NAME, tmp_path / "one.safetensors", **SMALL
    )
    assert unused == ["head.fc.bias", "head.fc.weight", "norm.bias", "norm.weight"]
    assert_same(features_of(tmp_path / "one.safetensors", image, norm_outputs=False), expected)

    # As microsoft/Swin-Transformer writes it: patches are merged at the end of a stage, tables
    # and masks are saved, the classifier is one layer.
    original = {}
    for key, value in model.state_dict().items():
        if ".downsample." in key:
            stage, rest = key.removeprefix("layers.").split(".", 1)
            key = f"layers.{int(stage) - 1}.{rest}"
        original[key.replace("head.fc.", "head.")] = value
    original["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    original["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save({"model": original}, tmp_path / "original.pth")
    unused = script.convert_swin(
        tmp_path / "original.pth", NAME, tmp_path / "two.safetensors", **SMALL
    )
    assert "layers.0.blocks.1.attn_mask" in unused
    assert "head.fc.weight" in unused
    assert_same(features_of(tmp_path / "two.safetensors", image, norm_outputs=False), expected)


@pytest.mark.parametrize("names", ["of files", "of modules"])
def test_swin_of_transformers(tmp_path, image, names):
    config = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 2, 2, 1],
        num_heads=[1, 2, 2, 4],
        drop_path_rate=0.0,
        out_features=["stage2", "stage3", "stage4"],
    )
    model = randomised(transformers.SwinBackbone(config))
    for norm in model.hidden_states_norms.values():
        norm.reset_parameters()
    with torch.no_grad():
        expected = list(model(image).feature_maps)
    source, output = tmp_path / "model.safetensors", tmp_path / "swin.safetensors"
    if names == "of files":
        model.save_pretrained(tmp_path)
        assert any(".attention.self.query." in name for name in load_file(source))
    else:
        save_file(model.state_dict(), source)
    unused = script.convert_swin(source, NAME, output, **SMALL)
    assert unused
    assert all("hidden_states_norms" in name or "norm." in name for name in unused)
    assert_same(features_of(output, image, norm_outputs=True), expected)


def test_incomplete_weights_and_weights_of_another_model_are_refused(tmp_path, capsys):
    state = timm.create_model(NAME, **SMALL).state_dict()
    del state["layers.0.blocks.0.attn.qkv.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"missing layers\.0\.blocks\.0\.attn\.qkv\.weight"):
        script.convert_swin(
            tmp_path / "less.safetensors", NAME, tmp_path / "out.safetensors", **SMALL
        )
    words = ["swin", tmp_path / "less.safetensors", "--name", NAME, "--output", tmp_path / "out"]
    assert script.main([str(word) for word in words]) == 2
    assert "does not hold" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def text_model(kind):
    """A small published model of a kind, with parts besides the text tower."""
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "clip":
        text = {**small, "hidden_size": 16, "vocab_size": 4096, "eos_token_id": 2}
        vision = {**small, "hidden_size": 16, "image_size": 32, "patch_size": 16}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model = transformers.CLIPModel(config)
        return randomised(model), model.text_model
    width = {"bert": 16, "minilm": 24}[kind]  # MiniLM is a BERT of other sizes
    config = transformers.BertConfig(**small, hidden_size=width, vocab_size=4096)
    model = (
        transformers.BertModel(config) if kind == "minilm" else transformers.BertForMaskedLM(config)
    )
    return randomised(model), getattr(model, "bert", model)


@pytest.mark.parametrize("kind", ["clip", "bert", "minilm"])
def test_a_text_tower_of_transformers(tmp_path, kind, capsys):
    whole, text = text_model(kind)
    source, output = tmp_path / "source", tmp_path / "output"
    whole.save_pretrained(source)
    load_tokenizer(resolve_folder("resource://text_tower_nano")).save_pretrained(source)
    assert script.main(["text", str(source), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert ("not used: vision_model." in printed) == (kind == "clip")
    assert ("not used: cls.predictions" in printed) == (kind == "bert")
    tokens = load_tokenizer(str(output))(["a red apple", "dog"], padding=True, return_tensors="pt")
    words = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = text(**words).last_hidden_state
        converted = load_text_model(str(output)).eval()(**words).last_hidden_state
    torch.testing.assert_close(converted, expected)


def test_an_incomplete_text_tower_is_refused(tmp_path, capsys):
    whole, _ = text_model("minilm")
    whole.save_pretrained(tmp_path / "source")
    load_tokenizer(resolve_folder("resource://text_tower_nano")).save_pretrained(
        tmp_path / "source"
    )
    file = tmp_path / "source" / "model.safetensors"
    state = load_file(file)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, file, metadata={"format": "pt"})
    words = ["text", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    assert script.main(words) == 2
    assert "no entry for encoder.layer.1.output.dense.weight" in capsys.readouterr().err
    assert script.main(["text", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "expected model.safetensors" in capsys.readouterr().err
