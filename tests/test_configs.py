"""Every config of the repository loads, builds, and says what is read."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import CLIPTextConfig, CLIPTextModel

from detclip2.config import check_keys, inference_settings
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2

ROOT = Path(__file__).parents[1]
FRAGMENTS = sorted((ROOT / "configs").rglob("*.py"))
RUNNABLE = sorted((ROOT / "projects").glob("*/configs/**/*.py"))
TRAIN_KEYS = LazyConfig.load(str(ROOT / "configs" / "train.py")).train


@pytest.fixture(autouse=True)
def folders_of_data(monkeypatch, tmp_path):
    """Configs find data by these; nothing is read from there to build a model."""
    for variable in ("DETECTRON2_DATASETS", "DETCLIP2_TEST_DATA"):
        monkeypatch.setenv(variable, str(tmp_path))


def name_of(path):
    return str(path.relative_to(ROOT))


def load(path):
    return LazyConfig.load(str(path))


def build_without_memory(node):
    """The model of a config: its weights have shapes only, and a text tower whose files do not
    ship is one of its kind with few numbers."""
    with torch.device("meta"):
        if not node.text_tower.model.path.startswith("resource://"):
            node.text_tower.model = CLIPTextModel(CLIPTextConfig(num_hidden_layers=1))
            node.text_tower.tokenizer = None
        return instantiate(node)


def nodes_of(cfg, key):
    """All values of `key` in a config."""
    if isinstance(cfg, DictConfig):
        for k, value in cfg.items():
            if k == key:
                yield value
            yield from nodes_of(value, key)
    elif OmegaConf.is_list(cfg):
        for value in cfg:
            yield from nodes_of(value, key)


def test_there_are_configs():
    assert {path.parent.name for path in FRAGMENTS} >= {"configs", "models", "data"}
    assert len(RUNNABLE) >= 2


@pytest.mark.parametrize("path", [*FRAGMENTS, *RUNNABLE], ids=name_of)
def test_a_config_loads_wherever_it_is_read_from(path, tmp_path, monkeypatch):
    here = load(path)
    monkeypatch.chdir(tmp_path)
    assert OmegaConf.to_container(load(path)) == OmegaConf.to_container(here)
    assert path.read_text().startswith('"""'), "says what it is"


@pytest.mark.parametrize("path", FRAGMENTS, ids=name_of)
def test_fragments_name_arguments_that_exist(path):
    cfg = load(path)
    cfg.setdefault("train", TRAIN_KEYS)  # what fragments refer to
    for key in cfg:
        check_keys(cfg[key], key, name_of(path))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "models").rglob("*.py")), ids=name_of)
def test_models_build(path):
    for key, node in load(path).items():
        assert isinstance(build_without_memory(node), DetCLIPv2), key


@pytest.mark.parametrize("path", RUNNABLE, ids=name_of)
class TestRunnable:
    def test_it_is_short(self, path):
        assert len(path.read_text().splitlines()) <= 50

    def test_every_value_and_argument_exists(self, path):
        cfg = load(path)
        OmegaConf.to_container(cfg, resolve=True)
        for key in cfg:
            check_keys(cfg[key], key, name_of(path))
        assert set(cfg.train) <= set(TRAIN_KEYS)
        inference_settings(cfg, name_of(path))

    def test_it_builds(self, path):
        cfg = load(path)
        model = build_without_memory(cfg.model)
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in model.parameters() if p.requires_grad}
        schedule = instantiate(cfg.lr_multiplier)
        assert 0 < schedule(0.0) <= schedule(0.5) <= 1
        end = 1 if cfg.train.get("auto_step") else 0  # evaluations lower it, or the schedule
        assert schedule(1.0) == pytest.approx(end, abs=0.01)

    def test_images_are_read_as_the_model_sees_them(self, path):
        cfg = load(path)
        formats = set(nodes_of(cfg, "image_format"))
        if "MentionMapper" in str(cfg.dataloader.test.mapper._target_):
            formats.add("RGB")  # all that it reads
        assert formats == {DetCLIPv2.input_format}

    def test_it_survives_being_saved(self, path, tmp_path):
        """A training run leaves its config for the predictor."""
        LazyConfig.save(load(path), str(tmp_path / "config.yaml"))
        saved = LazyConfig.load(str(tmp_path / "config.yaml"))
        assert not list(tmp_path.glob("*.pkl"))
        assert set(saved) == set(load(path))
        check_keys(saved, "", name_of(path))
        assert isinstance(build_without_memory(saved.model), DetCLIPv2)
