"""The shipped GLIPv2 does all its tasks, as its card says."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from detclip2 import OpenVocabularyPredictor
from detclip2.config import load_config
from detclip2.utils.model_folder import CONFIG_NAME, SHIPPED
from projects.GLIPv2.tools.ship_model import FIGURES, measure

GLIPV2_NANO = SHIPPED["glipv2_nano"]
RESULTS = json.loads((GLIPV2_NANO / "results.json").read_text())


@pytest.fixture(scope="module")
def predictor():
    return OpenVocabularyPredictor("glipv2_nano", device="cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("emoji_font")
def test_a_figure_of_each_task_equals_its_card(predictor):
    """Within 1: another release of the font or of timm can change it."""
    card = RESULTS["shipped"]
    cfg, _ = load_config(GLIPV2_NANO / CONFIG_NAME)
    registered = set(DatasetCatalog.list())
    try:
        found = measure(cfg, predictor.model, card["scenes"])
    finally:
        for name in set(DatasetCatalog.list()) - registered:
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name, None)
    for key, _ in FIGURES.values():
        assert found[key] == pytest.approx(card[key], abs=1.0), key
