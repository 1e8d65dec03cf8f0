import pytest

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.spans import (
    find_phrase,
    is_span,
    join_spans,
    read_spans,
    readable,
    spans_of_phrases,
)

CAPTION = "A red  apple, two dogs and a dog"


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("red apple", ["red  apple"]),
        ("a", ["A", "a"]),
        ("dog", ["dog"]),
        ("Two Dogs", ["two dogs"]),
        ("cat", []),
        ("", []),
        ("app", []),
    ],
)
def test_a_phrase_is_found_as_whole_words(phrase, found):
    assert [CAPTION[begin:end] for begin, end in find_phrase(CAPTION, phrase)] == found


def test_regex_characters_are_matched_literally():
    assert find_phrase("1+1 (one)?", "(one)?") == [(4, 10)]


@pytest.mark.parametrize(
    "span", [[], [1], [1, 2, 3], [2, 2], [3, 2], [-1, 2], [0, 99], [None, 3], [0.0, 1.0]]
)
def test_invalid_spans(span):
    assert not is_span(span, CAPTION)


@pytest.mark.parametrize(
    ("marked", "valid", "invalid"),
    [
        (None, [], 0),
        ([], [], 0),
        ([[2, 5], [14, 17]], [(2, 5), (14, 17)], 0),
        ([2, 5], [(2, 5)], 0),  # one span alone
        ([2, 99], [], 1),
        ([2, 5, 7], [], 3),
        ([[2, 5], 7, None, "2-5", {"begin": 2}], [(2, 5)], 4),
        ([[[2, 5]], [2, [5]], [[], []]], [], 3),
        ([[2.0, 5.0], [2.5, 5], [float("nan"), 5], [False, True], ["2", "5"]], [], 5),
        ("2,5", [], 1),
        (7, [], 1),
        ({"begin": 2, "end": 5}, [], 1),
        (False, [], 1),
    ],
)
def test_spans_of_any_nesting_and_type(marked, valid, invalid):
    found, others = read_spans(marked, CAPTION)
    assert found == valid
    assert len(others) == invalid


def test_spans_separated_by_whitespace_are_joined():
    assert join_spans(CAPTION, [[7, 12], [2, 5], [14, 17]]) == [(2, 12), (14, 17)]
    assert join_spans(CAPTION, []) == []


def test_given_spans_have_priority_over_found_spans():
    marked = [(28, 32), (2, 12)]  # "a dog" is marked with its space
    assert CAPTION[28:32] == " dog"
    phrases = ["red apple", "dog", "two dogs", "sea"]
    assert spans_of_phrases(CAPTION, phrases, marked) == [[[2, 12]], [[28, 32]], [[14, 22]], []]
    assert spans_of_phrases(CAPTION, phrases[:2]) == [[[2, 12]], [[29, 32]]]


def test_cleaning_a_caption_keeps_its_length():
    raw = "a\ndog\x00 \ud800 \u200bcaf\u00e9 \U0001f469\u200d\U0001f692"
    text = readable(raw)
    assert len(text) == len(raw)
    text.encode()
    assert text == "a dog     caf\u00e9 \U0001f469\u200d\U0001f692"
    assert clean_phrase(text) == clean_phrase(raw.replace("\x00", " "))
    assert readable(CAPTION) is CAPTION
