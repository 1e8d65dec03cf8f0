import json
from pathlib import Path

import pytest

from detclip2.data.text import concept_sources as build
from detclip2.data.text.concepts import Concept, ConceptDictionary

WORDNET = Path("/usr/share/wordnet")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "Dog\n\nhot_dog\n", [("Dog", (), ""), ("hot dog", (), "")]),
        ("a.csv", "1,Cabinet/shelf,x\n2,Dog,y\n", [("Cabinet", ("shelf",), ""), ("Dog", (), "")]),
        (
            "a.csv",
            "name,synonyms,definition\ndog,hound;mutt,it barks\n",
            [("dog", ("hound", "mutt"), "it barks")],
        ),
        (
            "a.json",
            '{"categories": [{"name": "dog_1", "def": "it barks", "synonyms": ["dog_1", "mutt"]}]}',
            [("dog 1", ("mutt",), "it barks")],
        ),
        ("a.json", '["dog", "", "cat"]', [("dog", (), ""), ("cat", (), "")]),
        ("a.json", '{"0": "dog", "1": "cat"}', [("dog", (), ""), ("cat", (), "")]),
    ],
)
def test_category_lists(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    found = build.read_categories(path, "here")
    assert [(c.name, c.synonyms, c.definition) for c in found] == expected
    assert {c.source for c in found} == {"here"}


def test_noun_phrases_with_a_minimum_count(tmp_path):
    path = tmp_path / "phrases.jsonl"
    lines = [{"phrases": ["Red dog", "cat"]}, {"phrases": ["red  dog"]}, {"caption": "x"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = build.read_phrases(path, "cc", 2)
    assert found == [Concept("red dog", source="cc", count=2)]
    (tmp_path / "phrases.txt").write_text("cat\ncat\ndog\n")
    assert build.read_phrases(tmp_path / "phrases.txt", "cc", 2)[0].count == 2


def test_merging():
    merged = build.merge_concepts(
        [
            Concept("airplane", "it flies", ("aeroplane",), "lvis"),
            Concept("mouse (computer equipment)", "to click", (), "lvis"),
            Concept("bow (weapon)", "for arrows", (), "lvis"),
            Concept("bow (ribbons)", "for presents", (), "lvis"),
            Concept("Aeroplanes", "", ("jet",), "web", 5),
            Concept("jets", source="web", count=2),
            Concept("mouse", source="coco"),
            Concept("bow", source="coco"),
            Concept("airplane", "a tool", (), "wrong"),
            Concept("jet", "a stone", (), "stones"),
        ]
    )
    assert [(c.name, c.source) for c in merged] == [
        ("airplane", "lvis+web"),
        ("mouse (computer equipment)", "lvis+coco"),
        ("bow (weapon)", "lvis"),
        ("bow (ribbons)", "lvis"),
        ("bow", "coco"),
        ("jet", "stones"),
    ]
    assert merged[0].synonyms == ("aeroplane", "Aeroplanes", "jet", "jets")
    assert (merged[0].definition, merged[0].count) == ("it flies", 7)
    ConceptDictionary(merged)


@pytest.mark.skipif(not (WORDNET / "noun.exc").exists(), reason="WordNet is not installed")
def test_plurals_against_wordnets_morphology():
    from detclip2.data.text.concepts import singular_forms

    wordnet = build.WordNet(WORDNET)._reader
    words = [n for n in wordnet.all_lemma_names(pos="n") if n.isalpha() and n.islower()][::40]
    missed = 0
    for word in words:
        plural = word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
        plural = word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else plural
        expected = wordnet.morphy(plural, "n")
        missed += expected is not None and expected not in singular_forms(plural)
    assert len(words) > 1000
    assert missed < 0.01 * len(words)
