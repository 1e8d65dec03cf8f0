"""Every config of the repository loads and builds, with valid keys only."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import CLIPTextConfig, CLIPTextModel

from detclip2.config import check_keys, inference_settings
from detclip2.engine.train_loop import evaluation_nodes
from detclip2.modeling.losses.masks import has_masks
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.meta_arch.glipv2 import GLIPv2

ROOT = Path(__file__).parents[2]
FRAGMENTS = sorted((ROOT / "configs").rglob("*.py"))
RUNNABLE = sorted((ROOT / "projects").glob("*/configs/**/*.py"))
TRAIN_KEYS = LazyConfig.load(str(ROOT / "configs" / "train.py")).train


@pytest.fixture(autouse=True)
def folders_of_data(monkeypatch, tmp_path):
    """Configs find data by these variables; building a model reads a list of answers alone."""
    for variable in ("DETECTRON2_DATASETS", "DETCLIP2_TEST_DATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    (tmp_path / "vqa").mkdir()
    (tmp_path / "vqa" / "answers.txt").write_text("yes\nno\n")


def name_of(path):
    return str(path.relative_to(ROOT))


@functools.cache
def run_once(path):
    return LazyConfig.load(str(path))


def load(path):
    """A copy of a config for the caller."""
    return copy.deepcopy(run_once(path))


def build_without_memory(node):
    """The model of a config without memory for weights.

    A text tower whose files do not ship is replaced by a small one.
    """
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
    there = LazyConfig.load(str(path))
    assert OmegaConf.to_container(there) == OmegaConf.to_container(here)


@pytest.mark.parametrize("path", FRAGMENTS, ids=name_of)
def test_fragments_name_arguments_that_exist(path):
    cfg = load(path)
    cfg.setdefault("train", TRAIN_KEYS)  # the keys that fragments refer to
    cfg.setdefault("dataloader", {"vocabulary": {"templates": ["{}"], "definitions": None}})
    cfg.setdefault("inference", {"min_size": 64, "max_size": 64})
    cfg.setdefault("world", {"categories": 20, "size": 64, "seed": 0})
    for key in cfg:
        check_keys(cfg[key], key, name_of(path))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "models").rglob("*.py")), ids=name_of)
def test_models_build(path):
    meta_arch = {"glip": GLIP, "glipv2": GLIPv2}.get(path.stem, DetCLIPv2)
    for key, node in load(path).items():
        assert isinstance(build_without_memory(node), meta_arch), key


@pytest.mark.parametrize("path", RUNNABLE, ids=name_of)
class TestRunnable:
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
        if "optimizer" not in cfg:  # for evaluation only
            assert "lr_multiplier" not in cfg
            assert "train" not in cfg.dataloader
            return
        cfg.optimizer.params.model = model
        optimizer = instantiate(cfg.optimizer)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in model.parameters() if p.requires_grad}
        schedule = instantiate(cfg.lr_multiplier)
        assert 0 < schedule(0.0) <= schedule(0.5) <= 1
        end = (
            1 if cfg.train.get("reduce_lr_on_plateau") else 0
        )  # evaluations lower it, or the schedule
        assert schedule(1.0) == pytest.approx(end, abs=0.01)

    def test_training_and_evaluation_use_the_same_prompts(self, path):
        cfg = load(path)
        asked = OmegaConf.to_container(cfg.dataloader, resolve=True).get("vocabulary")
        if asked is None:  # questions and captions have no names
            return
        for mapper in nodes_of(cfg.dataloader.get("train", {}), "mapper"):
            if "DetectionMapper" in str(mapper._target_):
                own = OmegaConf.to_container(mapper, resolve=True)
                for key, default in (("templates", ["{}"]), ("definitions", None)):
                    assert own.get(key, default) == asked[key]

    def test_each_test_set_has_a_vocabulary(self, path):
        cfg = load(path)
        for node, _ in evaluation_nodes(cfg, "dataloader").values():
            assert "vocabulary" in OmegaConf.select(cfg, node)

    def test_images_are_read_in_the_models_channel_order(self, path):
        cfg = load(path)
        formats = set(nodes_of(cfg, "image_format"))
        if {"MentionMapper", "EvaluationMapper"} & set(re.findall(r"\w+", str(cfg.dataloader))):
            formats.add("RGB")  # the only format that they read
        assert formats == {DetCLIPv2.input_format}

    def test_it_is_valid_after_saving_and_loading(self, path, tmp_path):
        """A training run saves its config for the predictor."""
        LazyConfig.save(load(path), str(tmp_path / "config.yaml"))
        saved = LazyConfig.load(str(tmp_path / "config.yaml"))
        assert not list(tmp_path.glob("*.pkl"))
        assert set(saved) == set(load(path))
        check_keys(saved, "", name_of(path))
        meta_arch = load(path).model._target_
        assert meta_arch in (DetCLIPv2, GLIP, GLIPv2)
        assert isinstance(build_without_memory(saved.model), meta_arch)


@pytest.mark.parametrize("name", ["emoji_glipv2_nano_masks", "emoji_glipv2_nano_all"])
def test_boxes_and_phrases_of_the_configs_with_masks_have_masks(name):
    cfg = load(ROOT / "projects" / "GLIPv2" / "configs" / f"{name}.py")
    cfg.world.update(categories=5, size=64)
    for source in ("detection", "grounding"):
        cfg.dataloader.train[source].update(total_batch_size=2, num_workers=0)
    loader = instantiate(cfg.dataloader.train)
    for source in ("detection", "grounding"):
        assert has_masks(loader.next_batch(source)), source
