"""Published weights become a model folder, and what does not fit is refused in one sentence."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertConfig

from detclip2.cli import main
from detclip2.commands import convert
from detclip2.utils import published_glip
from detclip2.utils.published_glip import PUBLISHED, PublishedFile
from tests.helpers.glip_published import SIZES, published_shapes
from tests.helpers.glip_reference import tokenizer

# The published entries, but for a text model and a Swin of few channels and layers.
SMALL = replace(SIZES["T"], swin=24, heads=(1, 2, 4, 8), depths=(2, 2, 2, 2), text=16)
SMALL = replace(SMALL, text_hidden=32, text_layers=1, blocks=1)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A folder with a small BERT's config and a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def small_sizes(monkeypatch):
    """Configs of the published sizes have the width of `SMALL`."""

    def config(name, key):
        from detclip2 import get_config

        node = get_config(name, key)
        node.backbone.bottom_up.update(embed_dim=24, num_heads=[1, 2, 4, 8], depths=[2, 2, 2, 2])
        node.head.update(num_blocks=1, text_width=16, text_heads=2, text_hidden=32)
        node.token_head.text_width = 16
        return node

    monkeypatch.setattr(convert, "get_config", config)
    monkeypatch.setattr(convert, "SIZES", {(24, True): "swin_t", (24, False): "swin_t_unfused"})


def published(fused=True):
    shapes = published_shapes(replace(SMALL, fused=fused))
    return {f"module.{n}": torch.full(s, 0.01 * i) for i, (n, s) in enumerate(shapes.items())}


@pytest.mark.parametrize("fused", [True, False])
def test_a_file_becomes_a_model_folder(fused, small_sizes, text_model, tmp_path, capsys):
    state, folder = published(fused), tmp_path / "glip"
    other = {name: torch.zeros(1) for name in state}
    torch.save({"model": state, "model_ema": other, "iteration": 5}, tmp_path / "glip.pth")
    arguments = [str(tmp_path / "glip.pth"), "--output", str(folder), "--text-model", text_model]
    assert main(["convert", *arguments]) == 0
    listed = json.loads((folder / "converted.json").read_text())
    assert set(listed["used"]) | set(listed["unused"]) == set(state)
    assert f"{len(listed['used'])} entries used" in capsys.readouterr().out

    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.utils.model_folder import read_model_folder

    predictor = OpenVocabularyPredictor(*read_model_folder(folder), device="cpu")
    weights = load_file(folder / "model.safetensors")
    for name, tensor in predictor.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    box = state["module.rpn.head.bbox_pred.weight"]
    assert torch.equal(weights["head.box.weight"], box)


def test_what_does_not_fit_is_refused(small_sizes, text_model, tmp_path, capsys):
    path = tmp_path / "glip.pth"
    arguments = ["convert", str(path), "--output", str(tmp_path / "o"), "--text-model", text_model]

    def error():
        assert main(arguments) == 2
        assert not (tmp_path / "o").exists()
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "there is no weights file" in error()
    path.write_bytes(b"PK\x03\x04 half a file")
    assert "cannot be read" in error()
    torch.save({"model": {"a.b": torch.zeros(1)}}, path)
    assert "not those of GLIP" in error()
    state = published()
    state.pop("module.rpn.head.dyhead_tower.0.b_attn.gamma_v")
    torch.save({"model": state}, path)
    assert "does not hold a whole GLIP" in error()
    state = published()
    state["module.rpn.head.bbox_pred.weight"] = torch.zeros(5, 256, 1, 1)
    torch.save({"model": state}, path)
    assert "head.box.weight" in error()
    state["module.backbone.body.patch_embed.proj.weight"] = torch.zeros(48, 3, 4, 4)
    torch.save({"model": state}, path)
    assert "no published GLIP with 48 channels" in error()


def test_the_folder_needs_no_other_files(small_sizes, text_model, tmp_path, monkeypatch):
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.utils.errors import UserError
    from detclip2.utils.model_folder import read_model_folder

    source, made = tmp_path / "bert", tmp_path / "glip"
    shutil.copytree(text_model, source)
    torch.save({"model": published()}, tmp_path / "glip.pth")
    arguments = [str(tmp_path / "glip.pth"), "--output", str(made), "--text-model", str(source)]
    assert main(["convert", *arguments]) == 0
    shutil.rmtree(source)
    moved = made.rename(tmp_path / "elsewhere")
    for file in moved.rglob("*"):
        if file.suffix in (".json", ".yaml", ".txt"):
            assert str(tmp_path) not in file.read_text(), file
    monkeypatch.chdir(tmp_path)
    for folder in ("elsewhere", moved):  # paths are relative to the folder, not to the user's
        predictor = OpenVocabularyPredictor(*read_model_folder(folder), device="cpu")
        assert predictor.model.text_encoder.num_tokens(["person"]) == [1]

    config = moved / "config.yaml"
    text = config.read_text()
    for path in ("folder:///etc", "folder://../bert", "../bert", "/etc"):
        config.write_text(text.replace("folder://text_model", path))
        with pytest.raises(UserError, match=r"of the (config's|model's) folder"):
            OpenVocabularyPredictor(*read_model_folder(moved), device="cpu")


class NotTensors:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_pickles_and_half_files_are_refused(small_sizes, text_model, tmp_path, capsys):
    path = tmp_path / "glip.pth"
    arguments = ["convert", str(path), "--output", str(tmp_path / "o"), "--text-model", text_model]
    torch.save({"model": published(), "optimizer": NotTensors()}, path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert "needs pickle" in err
    assert "must not run" not in out
    torch.save({"model": published()}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert main(arguments) == 2
    assert "cannot be read as weights" in capsys.readouterr().err
    torch.save({"model": published()}, path)
    assert main([*arguments[:-1], str(tmp_path / "no_bert")]) == 2
    assert "no_bert" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["glip-t", "glip-t-mmdet"])
def test_a_published_name_says_how_to_get_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    commands = (
        ["predict", "photo.png", "--names", "dog", "--output", "o", "--model", name],
        ["convert", name, "--output", name],
    )
    for command in commands:
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        file = PUBLISHED[name]
        for part in (file.url, file.licence, f"convert {name} --fetch --output {name}"):
            assert part in err
        assert (f"sha256 {file.sha256}..." in err) == bool(file.sha256)
        assert not [*tmp_path.rglob("*.pth*")], "nothing is fetched"


def test_a_published_file_is_fetched_when_asked_to(
    small_sizes, text_model, tmp_path, monkeypatch, capsys
):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    torch.save({"model": published()}, there / "glip.pth")
    digits = hashlib.sha256((there / "glip.pth").read_bytes()).hexdigest()[:8]
    url = (there / "glip.pth").as_uri()
    files = {
        "glip-t": PublishedFile(url, "", digits),
        "glip-l": PublishedFile(url, "", "00000000"),
        "glip-a": PublishedFile(url + "x", ""),
    }
    monkeypatch.setattr(published_glip, "PUBLISHED", files)
    monkeypatch.setattr(convert, "PUBLISHED", files)

    def run(name):
        arguments = ["--output", str(here / name), "--text-model", text_model]
        return main(["convert", name, "--fetch", *arguments]), capsys.readouterr().err

    assert "cannot be fetched: invalid hash value" in run("glip-l")[1]
    assert "glip.pthx cannot be fetched" in run("glip-a")[1]
    assert not list(here.iterdir())
    assert "--fetch: glip-x is no published model; known: glip-t" in run("glip-x")[1]
    assert run("glip-t")[0] == 0
    assert (here / "glip-t" / "model.safetensors").is_file()
    (there / "glip.pth").unlink()
    assert run("glip-t")[0] == 0, "a file that is there is not fetched again"
