"""From random starting weights to a model folder that works alone."""

import json
import shutil

import pytest
import timm
import torch
from detectron2.config import LazyConfig, instantiate
from safetensors.torch import load_file, save_file

from detclip2.config import get_config
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.text.text_tower import load_text_model, resolve_folder
from detclip2.utils.model_folder import read_model_folder, save_weights
from projects.Photographs.tools import join_weights, prepare_data, ship_model

TOWER = "resource://text_tower_photo"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A backbone file, and a text tower in half precision."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "b.safetensors")
    shutil.copytree(resolve_folder(TOWER), folder / "tower")
    load_text_model(resolve_folder(TOWER), pretrained=False).half().save_pretrained(
        folder / "tower"
    )
    return folder


def test_the_weights_that_a_training_starts_from(start, tmp_path):
    arguments = ["--backbone", start / "b.safetensors", "--text-tower", start / "tower"]
    output = tmp_path / "new" / "start.safetensors"
    assert join_weights.main([str(a) for a in [*arguments, "--output", output]]) == 0
    state = load_file(output)
    model = instantiate(get_config("photo_nano_boxes").model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing
    assert all(not name.startswith(join_weights.PARTS) for name in missing)
    tower = load_file(start / "tower" / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(state[f"text_tower.model.{name}"], tower[name].float())
    assert not torch.equal(state[f"text_tower.model.{name}"], before[f"text_tower.model.{name}"])


def test_a_backbone_of_another_model_is_one_sentence(start, tmp_path, capsys):
    arguments = ["--backbone", str(start / "tower" / "model.safetensors")]
    arguments += ["--text-tower", str(start / "tower"), "--output", str(tmp_path / "s")]
    assert join_weights.main(arguments) == 2
    assert "do not fit" in capsys.readouterr().err


def test_the_folder_works_alone_and_has_no_path_of_the_training(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("DETCLIP2_TEST_DATA", str(tmp_path))
    data, run, output = tmp_path / "data", tmp_path / "run", tmp_path / "shipped"
    prepare_data.main([str(photos), "--output", str(data)])
    shutil.copyfile(data / "names.jsonl", data / "names_val.jsonl")
    run.mkdir()
    cfg = get_config("photo_nano")
    cfg.photos.data = cfg.train.output_dir = cfg.train.init_checkpoint = "/machine/of/the/training"
    LazyConfig.save(cfg, str(run / "config.yaml"))
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    save_weights(model, run)
    arguments = [run, "--data", data, "--photos", photos, "--output", output]
    arguments += ["--text-tower", resolve_folder(TOWER), "--resources", tmp_path / "resources"]
    assert ship_model.main([str(a) for a in arguments]) == 0
    assert {file.name for file in output.iterdir()} == {
        *("ATTRIBUTION.tsv.gz", "README.md", "config.json", "config.yaml"),
        *("model.safetensors", "results.json"),
    }
    assert "/machine" not in (output / "config.yaml").read_text()
    state = load_file(output / "model.safetensors")
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float16}
    predictor = OpenVocabularyPredictor(*read_model_folder(output), device="cpu")
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        torch.testing.assert_close(predictor.model.state_dict()[name], expected)
    assert json.loads((output / "results.json").read_text())["photos val"]["images"] == 1
    assert "Not recorded." in (output / "README.md").read_text()
    assert {f.name for f in (tmp_path / "resources" / ship_model.TOWER).iterdir()} == set(
        ship_model.TOWER_FILES
    )
