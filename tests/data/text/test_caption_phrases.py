import pickle

import pytest

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.utils.errors import UserError


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man next to two small dogs", {"man": ["man"], "small dogs": ["small dogs"]}),
        # The first occurrence is the label; each of them counts.
        ("A Man sees the man", {"Man": ["Man", "man"]}),
        ("a hot dog beside a dog", {"hot dog": ["hot dog"], "dog": ["dog"]}),
        # The chunker reads these as "kids' toys" and "children's books".
        ("the kids\u2019 toys", {"kids\u2019 toys": ["kids\u2019 toys"]}),
        ("children 's books", {"children 's books": ["children 's books"]}),
        ("a\x00dog\n  on\ta   sofa", {"dog": ["dog"], "sofa": ["sofa"]}),
        ("a cafe\u0301 table", {"caf\u00e9 table": ["caf\u00e9 table"]}),
    ],
)
def test_phrases_are_words_of_the_caption(caption, expected):
    found = CaptionPhrases.find(caption)
    texts = [[found.caption[begin:end] for begin, end in spans] for spans in found.spans]
    assert dict(zip(found, texts, strict=True)) == expected


def test_a_part_of_a_phrase_keeps_its_spans_if_it_has_no_others():
    found = CaptionPhrases.find("a hot dog", ["hot dog", "dog"])
    assert found.spans == (((2, 9),), ((6, 9),))


def test_any_number_of_phrases():
    colors = ("red", "blue", "green", "grey", "pink")
    nouns = ("cat", "dog", "cup", "car", "bus", "bed", "box", "hat")
    names = [f"{color} {noun}" for color in colors for noun in nouns]
    assert list(CaptionPhrases.find(", ".join(f"a {name}" for name in names))) == names


def test_it_is_a_sequence_that_processes_can_send():
    found = CaptionPhrases.find("a dog on a sofa")
    assert list(found) == ["dog", "sofa"]
    assert found[1] == "sofa"
    assert len(found) == 2
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, CaptionPhrases.find("a dog on a sofa")}) == 1


@pytest.mark.parametrize(
    ("caption", "phrases", "message"),
    [
        (" \n\x00", None, "the caption is empty"),
        ("and so on, of the", None, "no noun phrase in 'and so on, of the'"),
        ("\U0001f436 \U0001f436", None, "no noun phrase"),
        ("a dog", [], "no noun phrase in 'a dog'"),
        ("a dog", ["dog", "cat"], "does not have the phrase 'cat'"),
        ("a dog", ["."], r"does not have the phrase '\.'"),
    ],
)
def test_mistakes_are_sentences(caption, phrases, message):
    with pytest.raises(UserError, match=message) as error:
        CaptionPhrases.find(caption, phrases)
    assert "\n" not in str(error.value)
