"""With a saved vocabulary, the model needs neither a text tower nor a library of text models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from PIL import Image
from safetensors.torch import load_file, save_file

from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = [["red apple", "pomme"], "fire engine", "пёс"]
PREDICT = """
import sys
sys.modules["transformers"] = sys.modules["tokenizers"] = None  # importing them fails
import torch
from detclip2 import OpenVocabularyPredictor
folder, *cases = sys.argv[1:]
for weights, rule in zip(cases[::2], cases[1::2]):
    predictor = OpenVocabularyPredictor(f"{folder}/config.yaml", f"{folder}/{weights}", "cpu")
    predictor.set_vocabulary(f"{folder}/{rule}.safetensors")
    found = predictor(f"{folder}/picture.png")
    tensors = [found.pred_boxes.tensor, found.scores, found.pred_classes]
    torch.save(tensors, f"{folder}/found_{rule}")
"""


@pytest.fixture(scope="module")
def folder(nano_folder, tmp_path_factory):
    """An image, vocabularies with their detections, and the model without its text tower."""
    folder = tmp_path_factory.mktemp("without")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    weights = nano_folder / "model.safetensors"
    full = OpenVocabularyPredictor(nano_folder / "config.yaml", weights, "cpu")
    for rule in ("mean", "max"):
        full.set_vocabulary(Vocabulary.from_names(NAMES, synonyms=rule))
        full.vocabulary.save(folder / f"{rule}.safetensors")
        found = full(folder / "picture.png")
        torch.save([found.pred_boxes.tensor, found.scores, found.pred_classes], folder / rule)
    cfg = LazyConfig.load(str(nano_folder / "config.yaml"))
    cfg.model.text_tower = None
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    tensors = load_file(weights)
    save_file(tensors, folder / "with.safetensors")
    without = {name: t for name, t in tensors.items() if not name.startswith("text_tower.")}
    assert 0 < len(without) < len(tensors)
    save_file(without, folder / "without.safetensors")
    return folder


@pytest.mark.processes
def test_a_saved_vocabulary_is_enough(folder):
    cases = ["with.safetensors", "mean", "without.safetensors", "max"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREDICT, str(folder), *cases],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for rule in ("mean", "max"):
        found, expected = (
            torch.load(folder / name, weights_only=True) for name in (f"found_{rule}", rule)
        )
        assert len(expected[1]) > 0
        for own, other in zip(found, expected, strict=True):
            assert torch.equal(own, other), rule


def test_the_synonym_rules_give_different_results(folder):
    (_, by_mean, _), (_, by_max, _) = (
        torch.load(folder / rule, weights_only=True) for rule in ("mean", "max")
    )
    assert by_mean.tolist() != by_max.tolist()


def test_names_need_a_text_tower(folder):
    predictor = OpenVocabularyPredictor(
        folder / "config.yaml", folder / "without.safetensors", "cpu"
    )
    with pytest.raises(UserError, match="no text tower: give it a vocabulary that is encoded"):
        predictor.set_vocabulary(["cat"])


def test_weights_must_be_complete_for_a_model_with_text_tower(folder, nano_folder):
    with pytest.raises(UserError, match=r"missing text_tower\."):
        OpenVocabularyPredictor(nano_folder / "config.yaml", folder / "without.safetensors", "cpu")
