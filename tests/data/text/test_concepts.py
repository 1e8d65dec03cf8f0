import collections
import json

import numpy as np
import pytest

from detclip2.data.text.concepts import (
    Concept,
    ConceptDictionary,
    bare_name,
    singular_forms,
    variants,
    words_of,
)
from detclip2.data.text.names import read_builtin
from detclip2.data.text.prompts import definition_of, prompts_of
from detclip2.utils.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Fire_engine", ("fire", "engine")),
        ("T-shirt", ("t", "shirt")),
        ("bow_(weapon)", ("bow", "weapon")),
        ("crane's  bill", ("crane's", "bill")),
        ("\U0001f34e", ("\U0001f34e",)),
        ("Stra\u00dfe", ("strasse",)),
        ("", ("",)),
    ],
)
def test_words_of(text, words):
    assert words_of(text) == words


PLURALS = {
    "dogs": "dog", "boxes": "box", "axes": "axe", "buses": "bus", "houses": "house",
    "glasses": "glass", "dresses": "dress", "churches": "church", "headaches": "headache",
    "dishes": "dish", "cookies": "cookie", "cherries": "cherry", "knives": "knife",
    "wolves": "wolf", "gloves": "glove", "tomatoes": "tomato", "shoes": "shoe", "kites": "kite",
    "firemen": "fireman", "people": "person", "children": "child", "geese": "goose",
    "mice": "mouse", "feet": "foot", "pizzas": "pizza", "vases": "vase", "quizzes": "quizz",
}  # fmt: skip


@pytest.mark.parametrize(("plural", "singular"), PLURALS.items())
def test_singular_forms(plural, singular):
    forms = singular_forms(plural)
    assert forms[0] == plural
    assert singular in forms


@pytest.mark.parametrize("word", ["glass", "dress", "grass", "s", "is", "", "sheep", "boss"])
def test_words_that_are_not_plurals(word):
    assert singular_forms(word) == (word,)


def test_only_the_last_word_of_a_name_is_a_plural():
    assert variants(("sports", "balls")) == [("sports", "balls"), ("sports", "ball")]


def dictionary():
    return ConceptDictionary(
        [
            Concept("airplane", "it flies", ("aeroplane", "plane"), "lvis", 3),
            Concept("bow (weapon)", "for arrows"),
            Concept("bow (decorative ribbons)", "for presents"),
            Concept("sneakers"),
            Concept("kite", "on a string"),
            Concept("kit"),
            Concept("hot dog", "a sausage in a bun"),
            Concept("plane", "a tool", source="tools"),
        ]
    )


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("airplane", "airplane"),
        ("Aeroplanes", "airplane"),
        ("plane", "plane"),  # a name before a synonym
        ("bow (Decorative ribbons)", "bow (decorative ribbons)"),
        ("bow", "bow (weapon)"),
        ("sneaker", "sneakers"),
        ("kites", "kite"),
        ("kits", "kit"),
        ("hot_dogs", "hot dog"),
        ("dog", None),
        ("hot", None),
        ("", None),
    ],
)
def test_lookup(name, entry):
    found = dictionary().lookup(name)
    assert (found and found.name) == entry


def test_a_prompt_keeps_the_name_as_it_was_written():
    concepts = dictionary()
    prompt = lambda name: prompts_of(name, definition=definition_of(name, concepts))  # noqa: E731
    assert prompt("Aeroplanes") == ["Aeroplanes, it flies"]
    assert prompt("kit") == ["kit"]
    assert prompt("unheard of") == ["unheard of"]


def test_prompts_are_template_and_definition():
    assert prompts_of(" red\tapple", ("{}", "a {}."), "it is\n red") == [
        "red apple, it is red",
        "a red apple., it is red",
    ]
    assert definition_of("dog", {"dog": "it barks"}) == "it barks"
    assert definition_of("cat", {"dog": "it barks"}) == definition_of("cat", None) == ""


def test_the_built_in_dictionary_has_every_definition_of_lvis():
    entries, definitions = read_builtin("lvis")
    concepts = ConceptDictionary.builtin("lvis")
    assert [c.name for c in concepts] == [label for label, *_ in entries]
    assert len(definitions) == 1203
    for label, *_ in entries:
        assert concepts.definition(label) == definitions[label]
    assert not any(c.definition for c in ConceptDictionary.builtin("coco"))


def mentioned(text, concept):
    """Slow reference: does a text contain a concept, or end in its hypernym?"""
    words = list(words_of(text))
    for name in {n for full in concept.names for n in (full, bare_name(full))}:
        forms = [list(f) for f in variants(words_of(name))]
        for start in range(len(words)):
            for stop in range(start + 1, len(words) + 1):
                for part in variants(words[start:stop]):
                    if list(part) in forms:
                        return True
                    if stop == len(words) and any(
                        form[-len(part) :] == list(part) for form in forms
                    ):
                        return True
    return False


def test_negatives_are_disjoint_from_the_concepts_of_the_texts():
    draw = np.random.default_rng(0)
    words = ["red", "dog", "dogs", "hot", "fire", "engine", "engines", "box", "boxes", "man"]
    names = {" ".join(draw.choice(words, draw.integers(1, 4))) for _ in range(120)}
    names = sorted(names)
    concepts = ConceptDictionary(
        [Concept(name, synonyms=(names[(i * 7) % 90],)) for i, name in enumerate(names)]
    )
    for seed in range(60):
        texts = [" ".join(draw.choice(words, draw.integers(1, 5))) for _ in range(seed % 3)]
        allowed = {c.name for c in concepts if not any(mentioned(t, c) for t in texts)}
        drawn = concepts.sample_negatives(np.random.default_rng(seed), 10_000, texts)
        assert len(drawn) == len(set(drawn))
        assert set(drawn) == allowed
        few = concepts.sample_negatives(np.random.default_rng(seed), 5, texts)
        assert len(few) == min(5, len(allowed))
        assert set(few) <= allowed


def test_negatives_are_drawn_uniformly():
    concepts = ConceptDictionary.from_names([f"thing {chr(97 + i)}" for i in range(12)])
    counts = collections.Counter()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        counts.update(concepts.sample_negatives(rng, 3, ["a thing c"]))
    assert counts.pop("thing c", 0) == 0
    assert len(counts) == 11
    # Binomial(2000, 3/11): mean 545, standard deviation 19.9; five of them.
    assert all(abs(count - 545) < 100 for count in counts.values())


def test_negatives_of_long_captions_and_empty_dictionaries():
    concepts = dictionary()
    caption = "an aeroplane and a kite " * 2000
    drawn = concepts.sample_negatives(np.random.default_rng(0), 99, [caption])
    assert not {"airplane", "kite"} & set(drawn)
    assert ConceptDictionary([]).sample_negatives(np.random.default_rng(0), 5, ["a"]) == []
    assert concepts.sample_negatives(np.random.default_rng(0), 0) == []


def test_save_and_load(tmp_path):
    path = tmp_path / "concepts.jsonl"
    concepts = dictionary().concepts
    concepts += [Concept("caf\u00e9 \u2028 \u4e2d", 'with "quotes"\n', count=2)]
    ConceptDictionary(concepts).save(path)
    loaded = ConceptDictionary.load(path)
    assert loaded.concepts == concepts
    assert "caf\u00e9" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8").split("\n")[3]) == {"name": "sneakers"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a"}\n{oops', "line 2"),
        ('{"nam": "a"}', "line 1"),
        ("[]", "line 1"),
        ('{"name": 3}', "strings"),
        ('{"name": "a", "synonyms": 3}', "line 1"),
        ('{"name": "A"}\n{"name": "a"}', "twice"),
        ('{"name": ""}', "no name"),
        ("\xff", "concepts.jsonl"),
    ],
)
def test_files_that_are_not_dictionaries(tmp_path, text, message):
    path = tmp_path / "concepts.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        ConceptDictionary.load(path)
    with pytest.raises(UserError, match="nowhere"):
        ConceptDictionary.load(tmp_path / "nowhere")


def test_from_names_skips_repetitions():
    concepts = ConceptDictionary.from_names(["dog", "Dog", " ", "", "\x00", "cat "], "list")
    assert [(c.name, c.source) for c in concepts] == [("Dog", "list"), ("cat", "list")]
    assert len(concepts) == 2


def test_the_names_of_real_sets(test_data):
    categories = json.loads((test_data / "lvis/lvis_v1_categories.json").read_text())
    concepts = ConceptDictionary(
        [
            Concept(c["name"].replace("_", " "), c["def"], tuple(c["synonyms"]), "lvis")
            for c in categories
        ]
    )
    assert all(concepts.lookup(c["name"]).definition == c["def"] for c in categories)
    assert concepts.lookup("spray cans").name == "aerosol can"
    drawn = concepts.sample_negatives(np.random.default_rng(0), 2000, ["two dogs", "a bowl"])
    assert "dog" not in drawn
    assert "soup bowl" not in drawn
    assert len(drawn) > 1180
