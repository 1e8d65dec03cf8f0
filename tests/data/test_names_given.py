"""What names of callers and files mean."""

import json
import logging

import pytest

from detclip2.data.text.names import check_names, read_names, split_names, without_repeats
from detclip2.utils.errors import UserError


@pytest.mark.parametrize(
    "text", ["sheep. finger heart.", "sheep . finger heart .", "cat. dog", "cat ."]
)
def test_full_stops_that_look_like_separators_are_reported(text, caplog):
    with caplog.at_level(logging.WARNING):
        assert split_names(text) == [text]
    assert "separated by commas" in caplog.text


@pytest.mark.parametrize("text", ["St. Bernard", "Mt. Fuji", "cat, dog.", "3.5 inch disk"])
def test_other_full_stops_are_not(text, caplog):
    with caplog.at_level(logging.WARNING):
        split_names(text)
    assert not caplog.text


def test_names_of_equal_letters_are_one(caplog):
    with caplog.at_level(logging.WARNING):
        kept = without_repeats(check_names(["Sheep", "SHEEP", "sheep ", "Ram"]))
    assert kept == [("Sheep",), ("Ram",)]
    assert "'SHEEP'" in caplog.text


def test_a_coco_json_gives_the_names_of_its_categories(tmp_path):
    path = tmp_path / "train.json"
    categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "red apple", "supercategory": "x"}]
    path.write_text(json.dumps({"images": [], "categories": categories}))
    assert read_names(path) == ([["red apple"], ["dog"]], {})
    path.write_text(json.dumps(["cat", "dog"]))
    assert read_names(path)[0] == [["cat"], ["dog"]]


@pytest.mark.parametrize(
    "text", ["{", "3", "{}", '{"categories": 1}', '{"categories": [{"id": 1}]}', "[" * 100_000]
)
def test_a_json_without_names(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json.*categories"):
        read_names(path)
