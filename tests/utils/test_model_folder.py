from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import (
    DEFAULT,
    SHIPPED,
    default_model,
    read_model_folder,
    save_weights,
)


def make_folder(path, names=("config.yaml", "model.safetensors")):
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text("")
    return path


def test_a_folder_has_a_config_and_weights(tmp_path):
    folder = make_folder(tmp_path / "model")
    expected = (folder / "config.yaml", folder / "model.safetensors")
    assert read_model_folder(folder) == expected
    assert read_model_folder(str(folder)) == expected


@pytest.mark.parametrize("missing", ["config.yaml", "model.safetensors"])
def test_errors_name_the_missing_file(tmp_path, missing):
    names = {"config.yaml", "model.safetensors"} - {missing}
    folder = make_folder(tmp_path / "model", names)
    with pytest.raises(UserError, match=f"{folder}: .* has no {missing}"):
        read_model_folder(folder)


def test_a_missing_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(UserError, match=f"{name}: there is no such model folder"):
            read_model_folder(tmp_path / name)


def test_weights_are_read_back_unchanged(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].weight = nn.Parameter(torch.rand(3, 4, 3, 3).transpose(0, 1))  # not contiguous
    path = save_weights(model, tmp_path / "new")
    assert path == tmp_path / "new" / "model.safetensors"
    loaded = load_file(path)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_the_default_is_from_the_environment_or_the_package(tmp_path, monkeypatch):
    monkeypatch.delenv("DETCLIP2_MODEL", raising=False)
    assert DEFAULT == "photo_nano"
    assert default_model() == read_model_folder(SHIPPED["photo_nano"])
    folder = make_folder(tmp_path / "mine")
    monkeypatch.setenv("DETCLIP2_MODEL", str(folder))
    assert default_model()[0].parent == folder
    monkeypatch.setenv("DETCLIP2_MODEL", "emoji_nano")
    assert default_model()[0].parent == SHIPPED["emoji_nano"]


def test_a_text_is_a_name_and_a_path_is_a_folder(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "emoji_nano")
    monkeypatch.chdir(tmp_path)
    assert read_model_folder("emoji_nano")[0].parent == SHIPPED["emoji_nano"]
    for own in (Path("emoji_nano"), "./emoji_nano", folder, str(folder)):
        assert read_model_folder(own)[0].parent.samefile(folder)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("emoji_nan", "did you mean 'emoji_nano'"),
        ("yolo", "models that ship: photo_nano, emoji_nano, glipv2_nano"),
        ("output/emoji_nan", "no such model folder"),
    ],
)
def test_an_unknown_name_is_reported_with_those_that_ship(name, end):
    with pytest.raises(UserError, match=f"^{name}: there is no such model folder") as error:
        read_model_folder(name)
    assert str(error.value).endswith(end)


def test_a_wrong_environment_variable_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCLIP2_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"DETCLIP2_MODEL is set: .*nowhere"):
        default_model()
