"""The shipped model of EmojiScenes matches its card."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detclip2 import OpenVocabularyPredictor
from detclip2.config import load_config
from detclip2.engine.train_loop import evaluate
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.model_folder import CONFIG_NAME, SHIPPED

EMOJI_NANO = SHIPPED["emoji_nano"]


@pytest.fixture(scope="module")
def predictor():
    return OpenVocabularyPredictor("emoji_nano", device="cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_font")
def test_its_ap_on_new_scenes_equals_its_card(predictor, tmp_path):
    """Within 0.5: another release of the font or of timm can change it."""
    card = json.loads((EMOJI_NANO / "results.json").read_text())["shipped"]
    cfg, _ = load_config(EMOJI_NANO / CONFIG_NAME)
    name = "shipped_model_scenes"
    cfg.train.output_dir = str(tmp_path)
    cfg.dataloader.test.dataset.update(name=name, count=card["scenes"])
    try:
        found = evaluate(cfg, predictor.model)["bbox"]
    finally:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    assert found["AP"] == pytest.approx(card["AP"], abs=0.5)
    assert found["APr"] == pytest.approx(card["APr"], abs=0.5)
    assert found["APr"] > 0.3 * found["AP"]  # names that never had a box are found too


def test_its_vocabulary_matches_the_encoder(predictor):
    vocabulary = Vocabulary.load(EMOJI_NANO / "vocabulary.safetensors")
    encoded = predictor.encode(vocabulary.labels)
    assert (encoded.embeddings - vocabulary.embeddings).abs().max() < 1e-5


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED)
def test_the_model_is_small(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25 * 2**20
