import json

import pytest
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from omegaconf import OmegaConf

from detclip2.commands.train import train_or_evaluate
from detclip2.config import get_config
from detclip2.data.datasets.detection import detection_set
from detclip2.engine import train_loop
from detclip2.engine.test_sets import check_test_sets
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.utils.errors import UserError
from tests.helpers.own_data import own_content, write_own_data

NODES = [("dataloader", "test")]


def config(folder, change=None):
    content = own_content(2)
    path = write_own_data(folder, content)
    if change:
        change(folder, content)
        path.write_text(json.dumps(content))
    test = L(build_detection_test_loader)(
        dataset=L(detection_set)(name="test_sets", json_file=str(path), image_root=str(folder)),
        mapper=get_config("data/test_mapper.py").test_mapper,
    )
    evaluator = L(CheckedCOCOEvaluator)(dataset_name="${..test.dataset.name}")
    dataloader = {"test": test, "evaluator": evaluator, "vocabulary": None, "train": {}}
    cfg = OmegaConf.create({"dataloader": dataloader}, flags={"allow_objects": True})
    cfg.update(
        optimizer={"params": {}}, lr_multiplier={}, model={}, train=get_config("train.py").train
    )
    return cfg


def cut(folder, content):
    path = folder / "2.png"
    path.write_bytes(path.read_bytes()[:-20])


def nonsense(folder, content):
    content["annotations"][0]["bbox"] = None


DAMAGED = [
    (cut, r"1 of 2 images .*2\.png: .* truncated"),
    (nonsense, "annotation 2 has the bbox None"),
]


def test_a_good_set_passes(tmp_path):
    check_test_sets(config(tmp_path), NODES)
    custom = OmegaConf.create({"dataloader": {"test": {"dataset": "name"}}})
    check_test_sets(custom, NODES)


@pytest.mark.parametrize(("change", "sentence"), DAMAGED)
def test_damage_is_found_before_a_training(tmp_path, monkeypatch, change, sentence):
    for name in ("build", "apply_runtime_options"):
        monkeypatch.setattr(train_loop, name, lambda *args: None)
    with pytest.raises(UserError, match=sentence):
        train_loop.train(config(tmp_path, change), model=None, resume=False)


@pytest.mark.parametrize(("change", "sentence"), DAMAGED)
def test_damage_is_found_before_an_evaluation(tmp_path, monkeypatch, change, sentence):
    cfg = config(tmp_path, change)
    cfg.train.init_checkpoint = "no.pth"
    run = train_or_evaluate.__globals__
    monkeypatch.setitem(run, "config_of_user", str)
    monkeypatch.setitem(run, "set_up", lambda args: cfg)
    monkeypatch.setitem(run, "build_model", lambda *args: NoModel())
    arguments = type("Arguments", (), {"config_file": "", "eval_only": True, "resume": False})
    with pytest.raises(UserError, match=sentence):
        train_or_evaluate(arguments)


class NoModel:
    """A model that is never evaluated."""

    def to(self, device):
        return self
