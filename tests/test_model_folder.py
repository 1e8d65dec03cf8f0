import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from detclip2 import model_folder
from detclip2.errors import UserError
from detclip2.model_folder import default_model, read_model_folder, save_weights


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
def test_says_what_a_folder_lacks(tmp_path, missing):
    names = {"config.yaml", "model.safetensors"} - {missing}
    folder = make_folder(tmp_path / "model", names)
    with pytest.raises(UserError, match=f"{folder}: .* has no {missing}"):
        read_model_folder(folder)


def test_says_that_there_is_no_such_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(UserError, match=f"{name}: there is no such model folder"):
            read_model_folder(tmp_path / name)


def test_weights_come_back_as_they_were(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].weight = nn.Parameter(torch.rand(3, 4, 3, 3).transpose(0, 1))  # not contiguous
    path = save_weights(model, tmp_path / "new")
    assert path == tmp_path / "new" / "model.safetensors"
    loaded = load_file(path)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A source checkout of its own, without models."""
    monkeypatch.delenv("DETCLIP2_MODEL", raising=False)
    package = tmp_path / "detclip2"
    package.mkdir()
    monkeypatch.setattr(model_folder, "__file__", str(package / "model_folder.py"))
    return tmp_path


def test_the_default_is_the_environment_s_then_the_package_s_then_the_demo_s(checkout, monkeypatch):
    with pytest.raises(UserError, match="run `make demo`"):
        default_model()
    candidates = [
        checkout / "output" / "demo",
        checkout / "detclip2" / "resources" / "models" / "nano",
        checkout / "mine",
    ]
    for folder in candidates[:2]:
        make_folder(folder)
        assert default_model()[0].parent == folder
    monkeypatch.setenv("DETCLIP2_MODEL", str(make_folder(candidates[2])))
    assert default_model()[0].parent == candidates[2]


def test_a_wrong_environment_variable_is_told_and_not_passed_over(checkout, monkeypatch):
    make_folder(checkout / "output" / "demo")
    monkeypatch.setenv("DETCLIP2_MODEL", str(checkout / "nowhere"))
    with pytest.raises(UserError, match=r"DETCLIP2_MODEL is set: .*nowhere"):
        default_model()


def test_a_training_that_was_interrupted_is_no_model(checkout):
    make_folder(checkout / "output" / "demo", ["config.yaml"])
    with pytest.raises(UserError, match="run `make demo`"):
        default_model()
