"""The shipped model of photographs matches its card, and finds what is plain to see."""

import gzip
import json

import pytest
import torch
from torchvision.ops import box_iou

from detclip2 import OpenVocabularyPredictor
from detclip2.data.io.coco_json import read_json
from detclip2.evaluation.partly_labelled import ap50_by_name
from detclip2.utils.model_folder import SHIPPED
from projects.Photographs.evaluate import CHECKED, detections_of, first_images, summary
from projects.Photographs.tools.attribution import HEADER
from projects.Photographs.tools.prepare_data import federated
from tests.helpers.tiny_training import PROJECT, load_script

FOLDER = SHIPPED["photo_nano"]
# Photograph, what it shows and where (XYXY px, by eye), and the score that it is sure to have.
SURE = [
    ("chelsea.png", "cat", (0, 0, 400, 300), 0.4),
    ("astronaut.png", "person", (20, 12, 365, 512), 0.5),
    ("motorcycle_left.png", "motorcycle", (98, 42, 683, 443), 0.5),
]


@pytest.fixture(scope="module")
def predictor():
    return OpenVocabularyPredictor("photo_nano", device="cpu")


@pytest.fixture(scope="module")
def demo():
    return load_script(PROJECT / "demo.py")


@pytest.mark.parametrize(("file", "name", "box", "score"), SURE, ids=[row[0] for row in SURE])
def test_sure_detections(predictor, demo, file, name, box, score):
    """The best of all detections, of all names of the demo, is the right one."""
    (path,) = (path for path in demo.photographs() if path.name == file)
    best = predictor(path, vocabulary=demo.NAMES)[:1]
    assert best.labels == [name]
    assert float(best.scores) >= score
    assert float(box_iou(best.pred_boxes.tensor, torch.tensor([box]))) >= 0.5


@pytest.mark.slow
def test_its_ap_on_validation_photographs_equals_its_card(predictor, test_data):
    """Within 0.5: another release of timm or Pillow can change it."""
    card = json.loads((FOLDER / "results.json").read_text())[f"photos val, first {CHECKED}"]
    photos = test_data / "photos"
    content = first_images(federated(read_json(str(photos / "boxes/val.json"))), CHECKED)
    found = summary(ap50_by_name(content, detections_of(predictor, content, photos / "boxes")), ())
    assert card["images"] == CHECKED
    for key in ("AP50, all names", "AP50, person"):
        assert found[key] == pytest.approx(card[key], abs=0.5)
        assert found[key] > 10


def test_its_card_says_what_it_knows_and_whose_the_photographs_are():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    results = json.loads((FOLDER / "results.json").read_text())
    for words in ("CC BY 4.0", "ATTRIBUTION.tsv.gz", "What it is bad at", "How it was made"):
        assert words in card
    assert "Not recorded" not in card
    for name in ("photos val", "coco_open"):
        assert f"| {name} | {results[name]['images']} | " in card
    with gzip.open(FOLDER / "ATTRIBUTION.tsv.gz", "rt", encoding="utf-8") as file:
        header, *lines = (line.rstrip("\n").split("\t") for line in file)
    assert header == [*HEADER]
    assert len(lines) > 4000
    for file, licence, page, source in lines:
        assert file
        assert licence
        assert page.startswith("http") or source


def test_its_config_holds_no_path_and_shows_sure_detections(predictor):
    config = (FOLDER / "config.yaml").read_text(encoding="utf-8")
    assert "oc.env" not in config
    assert ": /" not in config
    assert predictor.thresholds.score_threshold >= 0.3
