"""The code of docs/extending.md: each section trains and evaluates."""

import csv
import importlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from PIL import Image

from detclip2 import OpenVocabularyPredictor
from detclip2.modeling import TextBatch
from detclip2.utils.model_folder import read_model_folder
from tests.helpers.tiny_training import load_train_net

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
CONFIG = "own_config.py"
SMALL = (
    "world.categories=30",
    "world.size=64",
    "dataloader.train.detection.total_batch_size=2",
    "dataloader.train.detection.num_workers=0",
    "dataloader.test.dataset.count=4",
    "train.fast_dev_run=True",
)
# Of a section: further small settings, and what its run logs.
ONE_CONV = ("model.head.num_convs=1",)
SETTINGS = {
    "A kind of data": (*ONE_CONV, "dataloader.train.boxes.num_workers=0"),
    "A supervision": (*ONE_CONV, "dataloader.train.labels.num_workers=0"),
    "A meta-architecture": (),
}
LOGGED = {
    "A kind of data": {"boxes/loss_box"},
    "A supervision": {"labels/total_loss"},
    "A meta-architecture": {"loss_box"},
}


def code_blocks(text, language="python"):
    """(title, code) of each block that is a file."""
    pattern = rf'^```{language} title="([\w.]+)"\n(.*?)^```'
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)


HEAD, *REST = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
TEXTS = {title: text for title, _, text in (part.partition("\n") for part in REST)}
SECTIONS = {title: code_blocks(text) for title, text in TEXTS.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the reader's files on sys.path; removed afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder, section):
    """Write the files of a section; its lines of the config follow the common ones."""
    ((title, config),) = code_blocks(HEAD)
    assert title == CONFIG
    for title, code in SECTIONS[section]:
        if title == CONFIG:
            config += code
        else:
            (folder / title).write_text(code, encoding="utf-8")
    (folder / CONFIG).write_text(config, encoding="utf-8")
    for title, table in code_blocks(TEXTS[section], "csv"):
        (folder / title).write_text(table, encoding="utf-8")
        for row in csv.DictReader(table.splitlines()):
            Image.new("RGB", (64, 64), "white").save(folder / row["file_name"])


def statements(config):
    """The lines of a config that change something."""
    return [line for line in config.splitlines() if re.match(r"(?!from |import )\w", line)]


def test_every_section_is_one_file_and_one_line_of_a_config():
    assert len(SECTIONS) == 6
    for title, blocks in SECTIONS.items():
        assert [name == CONFIG for name, _ in blocks] == [False, True], title
        (_, config) = blocks[-1]
        if title == "A supervision":  # both of its ends: samples, and what they are for
            data, losses = statements(config)
            assert data.startswith("dataloader.train.")
            assert losses.startswith("model.")
        else:
            assert len(statements(config)) == 1, title


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_trains_evaluates_and_predicts(folder, section):
    write(folder, section)
    output = folder / "output"
    config = ["--config-file", str(folder / CONFIG), f"train.output_dir={output}"]
    settings = [*config, *SMALL, *SETTINGS.get(section, ONE_CONV)]
    results = load_train_net().main(default_argument_parser().parse_args(settings))
    lines = (output / "fast_dev_run" / "metrics.json").read_text().splitlines()
    logged = set().union(*map(json.loads, lines))
    assert logged >= {"total_loss", *LOGGED.get(section, ())}
    assert results
    module = Path(SECTIONS[section][0][0]).stem
    saved = LazyConfig.load(str(output / "fast_dev_run" / "config.yaml"))
    assert f"{module}." in str(saved), "the new class is not used"
    if section == "An evaluator":
        assert results["count"]["mean"] >= 0
    predictor = OpenVocabularyPredictor(
        *read_model_folder(output / "fast_dev_run"), trust_config=True
    )
    found = predictor(np.zeros((48, 64, 3), np.uint8), vocabulary=["a", "b"], score_threshold=0)
    assert set(found.labels) <= {"a", "b"}
    assert len(found)


def test_image_labels_are_binary_cross_entropy_of_the_best_region(folder):
    write(folder, "A supervision")
    losses = importlib.import_module("image_labels").ImageLabelLoss(weight=0.5)
    text = TextBatch(["a", "b", "c"], torch.zeros(3, 4), [torch.tensor([1, 0])], [1], [True], [[]])
    logits = torch.tensor([[[0.0, 1.0, 9.0], [2.0, -1.0, 9.0]]])
    # "b" is in the image, "a" is not, and nothing is known of "c".
    expected = 0.5 * (math.log1p(math.exp(-1)) + math.log1p(math.exp(2)))
    loss = losses(logits, None, text, [{}])["loss_image_labels"]
    assert loss.item() == pytest.approx(expected)
