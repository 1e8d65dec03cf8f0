"""The folder of a run has what its model reads, and can be moved."""

import copy
import shutil

import pytest
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from omegaconf import OmegaConf

from detclip2.config import build, load_config, load_model_config
from detclip2.engine.resumed_config import check_resumed
from detclip2.engine.run_folder import keep_text_model, save_config
from detclip2.engine.train_loop import set_up
from detclip2.modeling.text.text_tower import resolve_folder, save_without_weights
from detclip2.utils.errors import UserError
from tests.helpers.tiny_training import tiny_glip_config


@pytest.fixture
def from_folder(tmp_path):
    """The config of a training whose text model is a folder, as that of converted weights is."""
    source = tmp_path / "converted" / "text_model"
    save_without_weights(resolve_folder("resource://text_tower_nano"), source)
    shutil.copy(resolve_folder("resource://bert_nano/config.json"), source)
    cfg = tiny_glip_config(tmp_path / "run")
    target = "detclip2.modeling.text.text_tower.load_text_model"
    cfg.model.text_tower.model.update(_target_=target, path=str(source), pretrained=False)
    cfg.model.text_tower.tokenizer.path = str(source)
    return cfg


def test_a_run_needs_no_files_of_the_model_that_it_started_from(from_folder, tmp_path):
    LazyConfig.save(from_folder, str(tmp_path / "begun.yaml"))
    arguments = default_argument_parser().parse_args(
        ["--config-file", str(tmp_path / "begun.yaml")]
    )
    set_up(arguments)
    run = (tmp_path / "run").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "converted")
    model = OmegaConf.load(run / "config.yaml").model.text_tower
    assert model.model.path == model.tokenizer.path == "folder://text_model"
    cfg, _ = load_model_config(run / "config.yaml")  # refuses paths out of the folder
    tower = build(cfg, "model.text_tower")
    assert tower.num_tokens(["red apple"]) == [2]
    assert not list((run / "text_model").glob("*.safetensors"))


def test_a_resumed_run_has_the_config_that_it_was_begun_with(from_folder, tmp_path):
    begun = copy.deepcopy(from_folder)
    keep_text_model(begun)
    save_config(begun)
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000003.pth")
    keep_text_model(from_folder)
    check_resumed(from_folder)
    again, _ = load_config(tmp_path / "run" / "config.yaml")
    keep_text_model(again)
    check_resumed(again)
    from_folder.model.text_tower.model.path = "resource://bert_nano"
    with pytest.raises(UserError, match=r"model\.text_tower\.model\.path"):
        check_resumed(from_folder)


@pytest.mark.parametrize("path", ["resource://bert_nano", "no/such/folder"])
def test_other_text_models_are_not_copied(from_folder, tmp_path, path):
    from_folder.model.text_tower.model.path = path
    keep_text_model(from_folder)
    from_folder.model.text_tower.model.update(path=str(tmp_path), pretrained=True)
    keep_text_model(from_folder)  # the run starts from its weights
    assert not (tmp_path / "run").exists()
