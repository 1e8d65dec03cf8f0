"""Json of any depth."""

import json

import pytest

from detclip2.utils.errors import shown
from detclip2.utils.json_text import MAX_DEPTH, parse_json


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("kind", [str, str.encode, lambda text: text.encode("utf-16")])
def test_the_limit_of_levels(kind):
    value = parse_json(kind(nested(MAX_DEPTH)))
    assert json.dumps(value) == nested(MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match="more than 100 levels"):
            parse_json(kind(nested(levels)))
        with pytest.raises(ValueError, match="more than 100 levels"):
            parse_json(kind('{"a": 3, "b": [' + nested(levels) + "]}"))


def test_brackets_in_texts_are_no_levels():
    text = "[{" * 1000 + "\ud800"
    assert parse_json(json.dumps({"a": text, text: [1]})) == {"a": text, text: [1]}
    assert parse_json(json.dumps([[]] * 1000)) == [[]] * 1000


def test_values_in_sentences():
    assert shown([4, 8.5, None, "1"]) == "[4, 8.5, None, '1']"
    for value in ("x" * 10**5, ["x"] * 10**5, {"x" * i: "y" * 99 for i in range(99)}, 10**4000):
        assert len(shown(value)) <= 123
