"""The table of model sizes in README.md, counted."""

import re
from copy import deepcopy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from transformers import CLIPTextConfig, CLIPTextModel

COLUMNS = ["size", "backbone", "image side (M)", "text tower (M)", "total (M)"]
BACKBONES = {"nano": "resnet10t", "swin_t": "Swin-T", "swin_l": "Swin-L"}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def models(request):
    return LazyConfig.load(str(request.config.rootpath / "configs/models/detclipv2.py"))


@pytest.fixture(scope="module")
def table(request):
    """size -> the other cells of its row."""
    text = (request.config.rootpath / "README.md").read_text()
    section = re.search(r"^#+ Model sizes\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no heading 'Model sizes'"
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section[1].splitlines()
        if line.startswith("|")
    ]
    assert rows, "there is no table under 'Model sizes' in README.md"
    assert rows[0] == COLUMNS
    return {row[0]: row[1:] for row in rows[2:]}


def build(config):
    """A model without memory for its weights.

    A text model from CLIP's files is replaced by one of CLIP's default sizes, those of ViT-B/32.
    """
    config = deepcopy(config)
    with torch.device("meta"):
        if config.text_tower.model.path == "openai/clip-vit-base-patch32":
            config.text_tower.model = CLIPTextModel(CLIPTextConfig())
            config.text_tower.tokenizer = None
        return instantiate(config)


def test_every_size_is_in_the_table(models, table):
    assert set(table) == set(BACKBONES) == {key for key in models if "text_tower" in models[key]}


@pytest.mark.parametrize("size", BACKBONES)
def test_sizes_equal_the_table(models, table, size):
    model = build(models[size])
    text, total = count(model.text_tower), count(model)
    counted = [f"{number / 1e6:.1f}" for number in (total - text, text, total)]
    assert table.get(size) == [BACKBONES[size], *counted]


def test_clips_text_model_has_its_published_size(models):
    tower = build(models.swin_t).text_tower
    assert count(tower.model) == 63_165_952  # of ViT-B/32
    assert count(tower.projection) == 512 * 256
