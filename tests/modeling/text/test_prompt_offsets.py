"""Learned offsets of names move these names alone."""

import pytest
import torch
from torch.nn import functional as F

from detclip2.modeling.text.frozen_tower import FrozenTextTower
from detclip2.modeling.text.prompt_offsets import PhraseOffsets, TokenOffsets
from detclip2.modeling.text.text_tower import TextTower, fresh_text_model, load_tokenizer
from detclip2.modeling.text.token_batch import TokenBatch
from tests.helpers.tiny_glip import text_tower

NAMES = ("red apple", "dog")


def randomised(offsets):
    torch.nn.init.normal_(offsets.offsets, generator=torch.Generator().manual_seed(0))
    return offsets


def test_phrases_move_from_their_unit_embedding():
    offsets = randomised(PhraseOffsets(NAMES, 4))
    embeddings = 3 * torch.randn(3, 4)
    moved = offsets(["dog", "cat", "red apple"], embeddings)
    expected = F.normalize(embeddings, dim=1) + offsets.offsets[[1, 0, 0]]
    torch.testing.assert_close(moved[[0, 2]], expected[[0, 2]])
    assert torch.equal(moved[1], embeddings[1])
    moved.sum().backward()
    assert torch.equal(offsets.offsets.grad, torch.ones(2, 4))


def test_phrases_without_an_offset_have_a_gradient_of_zero():
    """A batch of other names can be trained on, and changes nothing."""
    offsets = PhraseOffsets(NAMES, 4)
    offsets(["cat"], torch.randn(1, 4)).sum().backward()
    assert not offsets.offsets.grad.any()


def by_search(names, tokens, boundary):
    """The (name, position in it) of each token, by comparing every slice; the longest first."""
    found = [None] * len(tokens)
    for name in sorted(names, key=len):
        for i in range(len(tokens) - len(name) + 1):
            ends = (i == 0 or boundary[i - 1]) and (
                i + len(name) == len(tokens) or boundary[i + len(name)]
            )
            if ends and tokens[i : i + len(name)] == list(name):
                found[i : i + len(name)] = [(name, j) for j in range(len(name))]
    return found


def test_tokens_of_listed_names_move():
    names = [(5,), (5, 6), (7, 0, 8), (9, 9)]  # 0 is the separator, which a name may have
    offsets = randomised(TokenOffsets(names, 3))
    row, rows = {}, 0
    for name in names:
        row.update({(name, j): rows + j for j in range(len(name))})
        rows += len(name)
    assert offsets.offsets.shape == (rows, 3)
    generator = torch.Generator().manual_seed(1)
    words = torch.tensor([0, 0, 0, 1, 5, 6, 7, 8, 9])
    captions = words[torch.randint(len(words), (200, 12), generator=generator)]
    captions[0] = torch.tensor([1, 0, 5, 6, 0, 5, 0, 7, 0, 8, 0, 1])
    boundary = captions <= 1
    states = torch.randn(200, 12, 3, generator=generator)
    moved = offsets(captions, boundary, states)
    seen = set()
    for tokens, stops, before, after in zip(
        captions.tolist(), boundary, states, moved, strict=True
    ):
        found = by_search(names, tokens, stops.tolist())
        seen.update(found)
        for place, start, end in zip(found, before, after, strict=True):
            change = 0 if place is None else offsets.offsets[row[place]]
            torch.testing.assert_close(end, start + change)
    assert len(seen) == rows + 1


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    folder = "resource://text_tower_nano"
    return fresh_text_model(folder).eval(), load_tokenizer(folder)


@pytest.mark.parametrize("kind", [TextTower, FrozenTextTower])
def test_a_tower_of_phrases(parts, kind):
    plain, tuned = kind(*parts, embed_dim=None), kind(*parts, embed_dim=None, prompt_names=NAMES)
    randomised(tuned.phrase_offsets)
    phrases = ["a dog", "dog", "cat", "red apple"]
    with torch.no_grad():
        before, after = plain.encode_phrases(phrases), tuned.encode_phrases(phrases)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.isclose(before[[1, 3]], after[[1, 3]]).any()
    torch.testing.assert_close(tuned(phrases), after)
    torch.testing.assert_close(tuned(phrases), after)  # a frozen tower keeps those without offsets
    tuned(["dog"]).sum().backward()
    assert tuned.phrase_offsets.offsets.grad[1].any()
    assert len(tuned([])) == 0


def test_names_of_a_caption_move_wherever_they_are():
    tower = text_tower().eval()
    samples = [
        {"phrases": ["dog", "cat", "red apple"], "num_positives": 1},
        {"phrases": ["green apple", "red", "hot dog"], "num_positives": 1},
        {
            "phrases": ["dog"],
            "num_positives": 1,
            "caption": "a dog runs. dog",
            "phrase_spans": [[]],
        },
    ]
    with torch.no_grad():
        before = TokenBatch.from_samples(samples, tower)
        tower.add_prompt(NAMES)
        same = TokenBatch.from_samples(samples, tower)
        randomised(tower.token_offsets)
        after = TokenBatch.from_samples(samples, tower)
    assert torch.equal(before.embeddings, same.embeddings)
    changed = (after.embeddings != before.embeddings).any(dim=2)
    dog, cat, apple = before.tokens_of[0]
    assert torch.equal(changed[0], dog | apple)
    assert not (changed[0] & cat).any()
    assert not changed[1].any()
    assert changed[2].sum() == dog.sum()  # the listed one, not that of the sentence
    change = (after.embeddings - before.embeddings)[0][dog]
    torch.testing.assert_close(change, tower.token_offsets.offsets[-int(dog.sum()) :])
