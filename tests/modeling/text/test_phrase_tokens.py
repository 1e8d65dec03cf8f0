"""Tokens of phrases made by the loader: those of the text tower, and no others in a step."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.data.mappers import CaptionMapper
from detclip2.data.sample import check_sample
from detclip2.data.sources import Source
from detclip2.modeling.text import phrase_tokens, text_batch
from detclip2.modeling.text.frozen_tower import FrozenTextTower
from detclip2.modeling.text.phrase_tokens import PhraseTokens
from detclip2.modeling.text.text_batch import TextBatch
from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer
from tests.helpers.tiny_detector import config

NANO = "resource://text_tower_nano"
PHRASES = ["red apple", "a", "a very long phrase about a dog that runs after a ball in the rain",
           "пожарная машина", "🚒", "x" * 3000, "<end>", "a dog <pad> b"]  # fmt: skip


def tower(kind=TextTower, **options):
    torch.manual_seed(0)
    return kind(load_text_model(NANO, pretrained=False), load_tokenizer(NANO), 8, 16, **options)


@pytest.mark.parametrize("kind", ["shipped", "transformers"])
def test_tokens_are_those_of_the_tower(kind):
    reader = tower()
    if kind == "transformers":
        reader.tokenizer = load_tokenizer(NANO, mask_token="<mask>")
    tokens = PhraseTokens(reader.tokenizer, reader.max_length)
    for phrases in (PHRASES, PHRASES[:1], PHRASES[::-1]):  # the third time all are known
        expected = reader.tokenize(phrases)
        made = tokens(phrases)
        assert (made.dtype, made.shape) == (np.int32, (3, *expected["input_ids"].shape))
        joined = reader.joined([made[:, m] for m in range(len(phrases))])
        for key, value in joined.items():
            assert torch.equal(value, expected[key]), key
    assert tokens([]).shape == (3, 0, 0)


def test_few_tokens_are_kept(monkeypatch):
    monkeypatch.setattr(phrase_tokens, "MAX_KNOWN", 3)
    tokens = PhraseTokens(load_tokenizer(NANO), 16)
    whole = PhraseTokens(load_tokenizer(NANO), 16)
    for phrases in (PHRASES[:2], PHRASES[1:3], PHRASES[2:5], PHRASES[:5]):
        assert np.array_equal(tokens(phrases), whole(phrases))
        assert set(phrases) <= tokens._known.keys()
        assert len(tokens._known) <= max(3, len(phrases))


@pytest.mark.parametrize("kind", [TextTower, FrozenTextTower])
@pytest.mark.parametrize("pooling", ["end_of_text", "mean"])
def test_embeddings_by_tokens_are_those_of_the_phrases(kind, pooling):
    reader, again = (tower(kind, pooling=pooling).eval() for _ in range(2))
    made = PhraseTokens(reader.tokenizer, reader.max_length)(PHRASES)
    expected = reader(PHRASES)
    assert torch.equal(again(PHRASES, [made[:, m] for m in range(len(PHRASES))]), expected)
    few = [4, 1, 2]  # of a frozen tower they are known
    assert torch.allclose(
        again([PHRASES[m] for m in few], [made[:, m] for m in few]), expected[few], atol=1e-6
    )


def pairs_of(count):
    records = [
        {"image_id": i, "image": np.full((40, 40, 3), i, np.uint8),
         "caption": f"a dog and a red kite number {i % 3}"}
        for i in range(count)
    ]  # fmt: skip
    return Source(records, CaptionMapper(), 4, 2)


def test_no_tokenizer_is_called_where_the_model_is_trained(monkeypatch):
    torch.manual_seed(0)
    model = instantiate(config()).train()
    plain = next(iter(HybridLoader(pairs=pairs_of(8))))
    expected = model.encode_text(plain)
    loader = HybridLoader(pairs=pairs_of(8))
    loader.tokenise_by(model.phrase_tokens)
    batch = next(iter(loader))
    assert [sample["phrases"] for sample in batch] == [sample["phrases"] for sample in plain]
    for sample in batch:
        check_sample(sample)

    def refused(*args, **kwargs):
        raise AssertionError("the tokenizer is called in the main process")

    monkeypatch.setattr(type(model.text_tower.tokenizer), "__call__", refused)
    text = model.encode_text(batch)
    assert text.phrases == expected.phrases
    assert torch.equal(text.embeddings, expected.embeddings)
    assert sum(model(batch).values()).isfinite()
    with pytest.raises(AssertionError, match="in the main process"):
        model.encode_text(plain)


class Hashed(str):
    """A phrase that counts how often it is looked up."""

    looked_up = 0

    def __hash__(self):
        Hashed.looked_up += 1
        return super().__hash__()


def test_each_phrase_is_looked_up_once_in_a_step(monkeypatch):
    torch.manual_seed(0)
    model = instantiate(config()).train()
    batch = next(iter(HybridLoader(pairs=pairs_of(8))))
    tokens = model.phrase_tokens
    for sample in batch:
        sample["phrase_tokens"] = tokens(sample["phrases"])
        sample["phrases"] = [Hashed(phrase) for phrase in sample["phrases"]]
    monkeypatch.setattr(Hashed, "looked_up", 0)
    model(batch)
    assert Hashed.looked_up == sum(len(sample["phrases"]) for sample in batch)


def test_a_gather_looks_each_phrase_of_each_process_up_once(monkeypatch):
    """Two processes, of which this one is the second."""
    sample = {"phrases": [Hashed(p) for p in ("c", "a", "d")], "num_positives": 3}
    text = TextBatch.from_samples([sample], lambda phrases: torch.arange(3.0)[:, None])
    first = [Hashed(p) for p in ("a", "b")], [[1, 0]]
    monkeypatch.setattr(text_batch.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(text_batch.comm, "get_rank", lambda: 1)
    monkeypatch.setattr(text_batch.comm, "all_gather", lambda own: [first, own])
    joined = torch.tensor([[10.0], [11.0], [0.0], [1.0], [2.0]])
    monkeypatch.setattr(text_batch, "all_gather_with_grad", lambda own: joined)
    monkeypatch.setattr(Hashed, "looked_up", 0)
    gathered, words = text.gather_with([[0, 2]])
    assert Hashed.looked_up == 5
    assert gathered.phrases == ["a", "b", "c", "d"]
    assert gathered.embeddings.flatten().tolist() == [10, 11, 0, 2]
    assert gathered.index[0].tolist() == [2, 0, 3]
    assert words == [[[1, 0]], [[2, 3]]]


def test_samples_without_tokens_are_encoded_by_their_phrases():
    calls = []

    def encode(phrases, *tokens):
        calls.append((phrases, tokens))
        return torch.zeros(len(phrases), 2)

    with_tokens = {"phrases": ["b", "a"], "num_positives": 2, "phrase_tokens": np.ones((3, 2, 4))}
    without = {"phrases": ["b", "c"], "num_positives": 2}
    later = {**with_tokens, "phrases": ["c", "b"], "phrase_tokens": np.full((3, 2, 5), 7)}
    for samples in ([with_tokens, later], [with_tokens, without], [without, with_tokens], []):
        TextBatch.from_samples(samples, encode)
    phrases, (tokens,) = calls[0]
    assert phrases == ["b", "a", "c"]
    assert [rows.shape for rows in tokens] == [(3, 4), (3, 4), (3, 5)]
    assert [rows[0, 0] for rows in tokens] == [1, 1, 7]
    assert [own for _, own in calls[1:]] == [(), (), ()]
