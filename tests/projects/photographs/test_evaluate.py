"""The protocol of the card, with a detector that knows the answers."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.structures import Boxes, Instances

from detclip2.config import get_config, inference_settings, load_config
from projects.Photographs import evaluate as script
from projects.Photographs.tools import prepare_data, ship_model


class Detector:
    """Finds a person and a dog at (5, 5, 25, 25) everywhere, and the first name of a long list."""

    settings = SimpleNamespace(min_size=320)
    model = torch.nn.Linear(2, 2)

    def set_vocabulary(self, names):
        self.names = names

    def __call__(self, files, score_threshold, max_detections, nms_threshold=None):
        for _ in files:
            chosen = [0, 1] if "person" in self.names else [0]
            yield Instances(
                (40, 60),
                pred_boxes=Boxes(torch.tensor([[5.0, 5, 25, 25]] * len(chosen))),
                scores=torch.tensor([0.9, 0.8][: len(chosen)]),
                pred_classes=torch.tensor(chosen),
                labels=[self.names[i] for i in chosen],
            )


@pytest.fixture
def results(photos, tmp_path):
    data, coco = tmp_path / "data", tmp_path / "coco_open"
    prepare_data.main([str(photos), "--output", str(data)])
    shutil.copyfile(data / "names.jsonl", data / "names_val.jsonl")
    (coco / "annotations").mkdir(parents=True)
    content = json.loads((data / "boxes_val.json").read_text())
    for split, first in (("train2017", 1), ("val2017", 2)):
        one = json.loads(json.dumps(content))
        one["images"][0].update(id=first, file_name="a.png")
        one["annotations"][0].update(id=first, image_id=first, category_id=first)
        (coco / f"annotations/instances_{split}.json").write_text(json.dumps(one))
    args = SimpleNamespace(data=data, photos=photos, coco_open=coco, held_back=[])
    return script.measure(Detector(), args)


def test_all_measures(results):
    val, coco = results["photos val"], results["coco_open"]
    assert val["images"] == 1
    assert val["AP50, person"] == pytest.approx(100)
    assert val["by name"] == {"person": pytest.approx(100)}
    assert math.isnan(val["AP50, names with 20 boxes"])  # no name has so many
    # Each of person and dog is right in one of two images, the right one with the same score.
    assert coco["images"] == 2
    assert set(coco["by name"]) == {"person", "dog"}
    assert results["images of one thing"] == {"images": 2, "names": 1, "right first, %": 100.0}


def test_means_of_names():
    of_name = {"person": 50.0, "dog": 10.0, "cat": math.nan, "kite": 0.0}
    found = script.summary(of_name, ["person", "dog", "cat"], ["dog"])
    assert found == {
        "AP50, names with 20 boxes": 50.0,
        "AP50, all names": 20.0,
        "AP50, person": 50.0,
        "AP50, names held back": 10.0,
    }


def test_a_missing_folder_is_one_sentence(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--photos", str(tmp_path), "--device", "cpu"]
    assert script.main(arguments) == 2
    assert "boxes_train.json" in capsys.readouterr().err


def test_the_card_has_the_measured_numbers(results):
    counts = {
        "photographs": 4663,
        "boxes": 738,
        "names": 79,
        "pairs": 4552,
        "both": 627,
        "parameters": 8.1,
        "size": 320,
        "licences": "MIT: 3",
        "frequent": ["person", "dog"],
    }
    text = ship_model.card(results, counts, "Trained by a command.\n")
    assert "| photos val | 1 | nan | 100.0 | 100.0 |" in text
    assert "right one\nof 1 names in 100.0 %" in text
    assert "## How it was made\n\nTrained by a command.\n" in text
    assert "4,663 images:\n738 with boxes of 79 names and 4,552 with captions" in text


def test_the_shipped_config_is_data(tmp_path, monkeypatch):
    """Without trust it is read, and names no folder of the training machine."""
    monkeypatch.setenv("DETCLIP2_TEST_DATA", "/somewhere")
    cfg = get_config("photo_nano")
    cfg.model.text_tower.model.path = "/somewhere/tower"
    cfg.model.backbone.bottom_up.weights = "/somewhere/backbone.safetensors"
    cfg.train.update(init_checkpoint="/somewhere/start.safetensors", output_dir="/somewhere/run")
    file = tmp_path / "config.yaml"
    LazyConfig.save(ship_model.shipped_config(cfg), str(file))
    assert "/somewhere" not in file.read_text()
    shipped, _ = load_config(file)
    assert "source" not in shipped
    assert shipped.model.text_tower.model.path == "resource://text_tower_photo"
    settings = inference_settings(shipped, "config.yaml")
    assert settings.thresholds.score_threshold == ship_model.SHOWN["score_threshold"]
