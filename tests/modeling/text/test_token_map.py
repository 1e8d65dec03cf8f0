"""Captions of names, and the tokens of phrases in them."""

import random

import pytest

from detclip2.modeling.text.token_map import (
    Caption,
    caption_among,
    caption_of_names,
    clean_name,
    names_within,
    pack,
    token_map,
)
from tests.helpers import glip_reference
from tests.helpers.tiny_glip import text_tower


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("person", "person"),
        ("teddy bear_(toy)", "teddy bear"),
        ("bow_(decorative_ribbons)", "bow"),
        ("hair_drier", "hair drier"),
        ("  two  words ", "two words"),
        ("(toy)", "(toy)"),  # else nothing would be left
        ("", ""),
        ("_", "_"),
    ],
)
def test_names_are_cleaned(name, clean):
    assert clean_name(name) == clean


def test_a_caption_has_no_separator_at_its_end():
    text, spans = caption_of_names(["red apple", "dog", ""])
    assert text == "red apple. dog. "
    assert [[text[b:e] for b, e in own] for own in spans] == [["red apple"], ["dog"], [""]]
    assert caption_of_names([]) == ("", [])
    text, spans = caption_of_names(["a", "b", "c"], [2, 0])
    assert text == "c. a"
    assert spans == [[(3, 4)], [], [(0, 1)]]


def test_tokens_of_the_published_caption():
    """The numbers of GLIP's code for these names with BERT's tokenizer."""
    names = [clean_name(name) for name in glip_reference.NAMES]
    text, spans = caption_of_names(names)
    encoded = glip_reference.tokenizer()(text, return_offsets_mapping=True, return_tensors="pt")
    assert encoded["input_ids"].shape == (1, 13)
    found = token_map(spans, encoded["offset_mapping"][0])
    assert [row.nonzero().squeeze(1).tolist() for row in found] == [
        [1],
        [3, 4],
        [6, 7, 8],
        [10, 11],
    ]


def test_tokens_that_share_a_character_with_a_span():
    """Against the tokenizer's own answer, character by character, for random spans."""
    tokenizer = text_tower().tokenizer
    caption = "A man  with a hat, near two small dogs; the walking-stick"
    encoded = tokenizer([caption], return_offsets_mapping=True, return_tensors="pt")
    generator = random.Random(0)
    for _ in range(100):
        begin, end = sorted(generator.sample(range(len(caption) + 1), 2))
        [found] = token_map([[(begin, end)]], encoded["offset_mapping"][0])
        expected = {encoded.char_to_token(0, i) for i in range(begin, end)} - {None}
        assert set(found.nonzero().squeeze(1).tolist()) == expected


def test_phrases_with_several_spans_or_none():
    tokenizer = glip_reference.tokenizer()
    encoded = tokenizer("light. person light", return_offsets_mapping=True, return_tensors="pt")
    spans = [[(0, 5), (14, 19)], [], [(7, 7)], [(0, 1)]]
    found = token_map(spans, encoded["offset_mapping"][0])
    assert [row.nonzero().squeeze(1).tolist() for row in found] == [[1, 4], [], [], [1]]
    assert token_map([], encoded["offset_mapping"][0]).shape == (0, 6)


@pytest.mark.parametrize("limit", [1, 7, 254])
@pytest.mark.parametrize("most", [None, 1, 3])
def test_packing(limit, most):
    generator = random.Random(0)
    lengths = [generator.randint(1, 9) for _ in range(100)]
    captions = list(pack(lengths, limit, most))
    assert [i for members in captions for i in members] == list(range(100))
    for number, members in enumerate(captions):
        used = sum(lengths[i] for i in members) + len(members) - 1
        assert used <= limit or len(members) == 1
        assert len(members) <= (most or 100)
        if number + 1 < len(captions) and len(members) != most:  # the next name does not fit
            assert used + 1 + lengths[members[-1] + 1] > limit


def test_nothing_to_pack():
    assert list(pack([], 254)) == []


def test_positives_come_first_where_not_all_fit():
    lengths = [2, 2, 2, 2, 2]
    assert names_within(lengths, 2, 100, [4, 3, 2, 1, 0]) == [4, 3, 2, 1, 0]
    assert names_within(lengths, 2, 8, [4, 3, 2, 1, 0]) == [4, 1, 0]
    assert names_within(lengths, 5, 5, [3, 0, 1, 2, 4]) == [3, 0]
    assert names_within([9, 1], 2, 5, [0, 1]) == [1]
    assert names_within([], 0, 5, []) == []


def test_a_caption_among_captions_of_other_images():
    own = Caption("a dog and a cat", [[(2, 5)], [], [(12, 15)]])
    others = ["a red kite.", "the sea"]
    text, spans = caption_among(own, others, [5, 4, 2], 100, [1, 0, 2])
    assert text == "a red kite. a dog and a cat. the sea."
    assert [[text[b:e] for b, e in pairs] for pairs in spans] == [["dog"], [], ["cat"]]
    assert caption_among(own, others, [5, 4, 2], 100, [0, 2, 1]).spans == own.spans
    # The own one is never dropped: 5 + 1 + 2 tokens, and 1 for the last ".".
    assert caption_among(own, others, [5, 4, 2], 9, [1, 2, 0]).text == "the sea. a dog and a cat."
    assert caption_among(own, others, [5, 4, 2], 5, [1, 2, 0]) == own
    assert caption_among(own, [], [5], 100, [0]).text == "a dog and a cat."


def test_captions_fill_the_limit_and_no_more():
    """Against the tokenizer, for random captions and limits."""
    tower = text_tower()
    generator = random.Random(0)
    words = ["red", "dog", "on", "the", "fire", "engine", "kite."]
    for _ in range(30):
        texts = [" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(6)]
        lengths = tower.num_tokens(texts)
        limit = generator.randint(max(lengths) + 1, 60)
        order = generator.sample(range(6), 6)
        made = caption_among(Caption(texts[0], [[(0, 3)]]), texts[1:], lengths, limit, order)
        [used] = tower.num_tokens([made.text])
        assert used <= limit
        [(begin, _)] = made.spans[0]
        assert made.text[begin : begin + len(texts[0])] == texts[0]
