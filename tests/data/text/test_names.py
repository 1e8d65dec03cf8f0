import csv
import json
import logging

import pytest

from detclip2.data.datasets.detection import category_names, register_detection
from detclip2.data.text.names import BUILTIN_NAMES, check_names, read_builtin, without_repeats
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError

COUNTS = {"coco": 80, "lvis": 1203, "objects365": 365, "v3det": 13204}


def test_builtin_lists_are_sound(caplog):
    assert {name: len(read_builtin(name)[0]) for name in BUILTIN_NAMES} == COUNTS
    for name, number in COUNTS.items():
        entries, definitions = read_builtin(name)
        if name != "v3det":  # which has 45 names again in another case
            with caplog.at_level(logging.WARNING):
                assert len(without_repeats(check_names(entries))) == number
        assert set(definitions) <= {label for label, *_ in entries}
        names = [name for entry in entries for name in entry]
        assert all(name == name.strip() and "_" not in name for name in names)
        assert all(len(set(entry)) == len(entry) for entry in entries)
    assert not caplog.text


def test_builtin_lists_have_the_first_and_last_names_of_their_data_sets():
    ends = {name: [read_builtin(name)[0][i][0] for i in (0, -1)] for name in BUILTIN_NAMES}
    assert ends == {
        "coco": ["person", "toothbrush"],
        "lvis": ["aerosol can", "zucchini"],
        "objects365": ["Person", "Table Tennis"],
        "v3det": ["ashtray", "clothing"],
    }


def test_lists_that_are_not_built_in():
    for name in ("LVIS", "", "../vocabularies/lvis"):
        with pytest.raises(UserError, match="there are coco, lvis, objects365"):
            read_builtin(name)


def test_coco_names_equal_the_annotations(test_data):
    file = test_data / "coco_open" / "annotations" / "instances_val2017.json"
    register_detection("names_of_coco", str(file), "")
    assert category_names("names_of_coco") == [entry[0] for entry in read_builtin("coco")[0]]


def test_lvis_names_equal_the_annotations(test_data):
    categories = json.loads((test_data / "lvis" / "lvis_v1_categories.json").read_text())
    categories.sort(key=lambda category: category["id"])
    entries, definitions = read_builtin("lvis")
    for category, entry in zip(categories, entries, strict=True):
        words = [name.replace("_", " ") for name in [category["name"], *category["synonyms"]]]
        assert entry == list(dict.fromkeys(words))
        assert definitions[entry[0]] == category["def"]


def test_v3det_names_equal_the_source(test_data):
    lines = (test_data / "names" / "v3det_names.txt").read_text("utf-8").splitlines()
    assert [[line.replace("_", " ")] for line in lines] == read_builtin("v3det")[0]


def test_objects365_names_equal_the_source(test_data):
    file = test_data / "names" / "objects365_names.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        rows = sorted(csv.reader(lines), key=lambda row: int(row[0]))
    assert [int(row[0]) for row in rows] == list(range(1, 366))
    assert [[row[2]] for row in rows] == read_builtin("objects365")[0]


def test_a_built_in_vocabulary_has_only_names_by_default():
    plain = Vocabulary.builtin("lvis", ["a {}"])
    assert len(plain) == 1203
    assert plain.prompts[2] == (("a airplane",),)
    assert plain.label_of_row is None
    mean = Vocabulary.builtin("lvis", synonyms="mean")
    assert mean.labels == plain.labels
    assert mean.prompts[2] == (("airplane", "aeroplane"),)
    best = Vocabulary.builtin("lvis", synonyms="max", definitions=True)
    assert best.labels == plain.labels
    definition = "an aircraft that has a fixed wing and is powered by propellers or jets"
    assert best.prompts[2] == ((f"airplane, {definition}",), (f"aeroplane, {definition}",))
    assert len(best.label_of_row) == 1826
    assert Vocabulary.builtin("coco", synonyms="max", definitions=True).label_of_row is None
