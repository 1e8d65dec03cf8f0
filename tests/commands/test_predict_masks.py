"""``detclip2 predict --masks``: masks are drawn, and written in COCO's format."""

import json

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file

from detclip2 import cli, get_config
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder of GLIPv2's nano size with a mask head and random weights."""
    folder = tmp_path_factory.mktemp("masks")
    model = get_config("models/glipv2.py").nano_masks
    model.postprocess.min_probability = 0.0
    inference = {"min_size": 64, "max_size": 96, "score_threshold": 0.0, "batch_size": 1}
    cfg = OmegaConf.create({"inference": inference}, flags={"allow_objects": True})
    cfg.model = model
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    save_file(instantiate(cfg.model).state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run(image, folder, *more):
    argv = [
        *("predict", image, "--names", "red apple, dog", "--output", image.parent / "out"),
        *("--model", folder, "--device", "cpu", "--max-detections", "3", *more),
    ]
    return cli.main([*map(str, argv)])


@pytest.mark.parametrize("form", ["rle", "polygons"])
def test_masks_are_written(folder, image, form, capsys):
    results = image.parent / "all.json"
    assert run(image, folder, "--masks", form, "--json", "--results", results) == 0
    coco = COCO(str(results))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == 3
    masks = [coco.annToMask(one) for one in annotations if "segmentation" in one]
    assert all(mask.shape == (60, 80) for mask in masks)
    is_polygons = [isinstance(a.get("segmentation", []), list) for a in annotations]
    assert set(is_polygons) == {form == "polygons"}
    written = json.loads((image.parent / "out" / "image.detections.png.json").read_text())
    for detection, annotation in zip(written["detections"], annotations, strict=True):
        assert detection.get("segmentation") == annotation.get("segmentation")
        assert detection["area"] == annotation["area"]


def test_masks_are_drawn_only_if_they_are_asked_for(folder, image, capsys):
    assert run(image, folder, "--json") == 0
    drawn = image.parent / "out" / "image.detections.png"
    plain = np.asarray(Image.open(drawn))
    written = json.loads((image.parent / "out" / f"{drawn.name}.json").read_text())
    assert len(written["detections"]) == 3
    assert "segmentation" not in written["detections"][0]
    assert run(image, folder, "--masks", "--json") == 0
    tinted = np.asarray(Image.open(drawn))
    written = json.loads((image.parent / "out" / f"{drawn.name}.json").read_text())
    assert "counts" in written["detections"][0]["segmentation"]
    total = sum(detection["area"] for detection in written["detections"])
    assert (tinted != plain).any() == (total > 0)


def test_a_model_without_a_mask_head_is_refused(image, nano_folder, capsys):
    assert run(image, nano_folder, "--masks") == 2
    assert "this model has no mask head; docs/masks.md" in capsys.readouterr().err
    assert run(image, nano_folder) == 0


def test_the_predictor_gives_masks_if_the_model_can(folder, image, nano_folder):
    found = OpenVocabularyPredictor(folder, device="cpu")(image, vocabulary=["dog"])
    assert found.pred_masks.shape == (len(found), 60, 80)
    without = OpenVocabularyPredictor(folder, device="cpu", masks=False)
    boxes = without(image, vocabulary=["dog"])
    assert not boxes.has("pred_masks")
    assert boxes.scores.tolist() == found.scores.tolist()
    assert not OpenVocabularyPredictor(nano_folder, device="cpu").model.predicts_masks
    with pytest.raises(UserError, match="no mask head"):
        OpenVocabularyPredictor(nano_folder, device="cpu", masks=True)
