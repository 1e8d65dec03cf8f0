"""tools/ship_model.py: a run of the benchmark as a model folder with its card."""

import json
import re

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from detclip2 import OpenVocabularyPredictor
from detclip2.config import build, check_keys, load_config
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import CONFIG_NAME, SHIPPED, read_model_folder
from detclip2.utils.weights import read_weights
from projects.EmojiScenes.tools import ship_model

pytestmark = pytest.mark.slow

EMOJI_NANO = SHIPPED["emoji_nano"]
SCENES = 4  # measured of the shipped folder, in place of 50


@pytest.fixture(scope="module")
def shipped(tiny, tmp_path_factory):
    """A tiny run, its record, and the folder made of them."""
    experiment, records = tiny
    run, model = experiment.run_folder("pairs", 0), tmp_path_factory.mktemp("ship") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ship_model, "CHECKED_SCENES", SCENES)
        ship_model.ship(run, records["pairs"], model)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(f"emoji_val_{SCENES}", None)
    return run, records["pairs"], model


def test_its_weights_equal_those_of_the_run_in_half_precision(shipped):
    run, _, model = shipped
    before, after = (read_weights(read_model_folder(folder)[1]) for folder in (run, model))
    assert before.keys() == after.keys()
    for name, value in before.items():
        expected = value.half() if value.is_floating_point() else value
        assert torch.equal(after[name], expected), name


def test_no_path_of_the_machine_remains(shipped, tmp_path):
    run, _, model = shipped
    for file in (CONFIG_NAME, "README.md", "results.json"):
        assert str(run.parents[2]) not in (model / file).read_text()
    cfg, _ = load_config(model / CONFIG_NAME)
    cfg.train.output_dir = str(tmp_path)
    assert cfg.dataloader.test.dataset.folder == str(tmp_path / "data")


def test_its_config_does_not_need_the_benchmark(shipped):
    """A user of the wheel has no `projects`; the config in the package needs none either."""
    for folder in (shipped[2], EMOJI_NANO):
        cfg, _ = load_config(folder / CONFIG_NAME)
        assert "benchmark" not in cfg
        targets = set(re.findall(r"_target_: (\w+)", (folder / CONFIG_NAME).read_text()))
        assert targets <= {"detclip2", "detectron2", "torch"}
        for part in ("model", "optimizer", "lr_multiplier", "dataloader"):
            check_keys(cfg[part], part, str(folder))
        assert build(cfg, "lr_multiplier")(1.0) == pytest.approx(0)


def test_its_names_are_those_of_the_training(shipped):
    _, _, model = shipped
    predictor = OpenVocabularyPredictor(*read_model_folder(model), device="cpu")
    vocabulary = Vocabulary.load(model / "vocabulary.safetensors")
    assert len(vocabulary.labels) == 30
    encoded = predictor.encode(vocabulary.labels)
    torch.testing.assert_close(encoded.embeddings, vocabulary.embeddings)


def test_its_card_has_the_numbers_of_the_run_and_how_to_reproduce_them(shipped):
    _, record, model = shipped
    text = (model / "README.md").read_text()
    for test, found in record["results"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {test} |"))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        for cell, key in zip(cells, ("AP", "AP50", "APf", "APc", "APr"), strict=False):
            value = found["bbox_fixed"][key]
            assert cell == ("-" if value is None else f"{value:.1f}"), (test, key)
    assert record["command"] in text
    assert record["commit"] in text
    images = record["images"]
    assert f"{images['detection']:,} images of detection" in text
    results = json.loads((model / "results.json").read_text())
    assert results["results"] == record["results"]
    assert results["shipped"]["scenes"] == SCENES
    assert "curves" not in results


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="config"):
        ship_model.ship(tmp_path, {}, tmp_path / "model")
