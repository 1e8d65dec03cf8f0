"""The data of the model of photographs: what is unknown, what is kept out of training."""

import json

import pytest

from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.mappers import DetectionMapper
from detclip2.data.text.concepts import ConceptDictionary
from projects.Photographs.tools import prepare_data as script


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_unknown_names_are_neither_positive_nor_negative(photos, tmp_path):
    data = tmp_path / "data"
    assert script.main([str(photos), "--output", str(data)]) == 0
    json_file = str(data / "boxes_train.json")
    records = detection_set("test_prepare_data", json_file, str(photos / "boxes"))
    mapper = DetectionMapper(names_of_json(json_file))
    whole, part = map(mapper, records)
    assert set(whole["phrases"]) == {"person", "dog", "kite"}
    assert not whole["own_phrases_only"]
    assert not len(whole["not_exhaustive"])
    assert part["own_phrases_only"]
    assert set(part["phrases"]) == {"person", "dog", "kite"}
    assert [part["phrases"][i] for i in part["not_exhaustive"]] == ["person"]


def test_names_held_back_are_unknown_in_training_alone(photos, tmp_path):
    data = tmp_path / "data"
    assert script.main([str(photos), "--output", str(data), "--hold-back", "dog"]) == 0
    train, val = (json.loads((data / f"boxes_{s}.json").read_text()) for s in ("train", "val"))
    assert {a["category_id"] for a in train["annotations"]} == {1}
    assert [image["neg_category_ids"] for image in train["images"]] == [[3], [3]]
    assert [image["not_exhaustive_category_ids"] for image in train["images"]] == [[], [1]]
    assert len(train["categories"]) == 3
    assert "neg_category_ids" not in val["images"][0]


def test_an_unknown_name_is_one_sentence(photos, tmp_path, capsys):
    arguments = [str(photos), "--output", str(tmp_path / "data"), "--hold-back", "dgo"]
    assert script.main(arguments) == 2
    assert "'dgo': the boxes have no such name" in capsys.readouterr().err


def test_captions_and_names(photos, tmp_path):
    data = tmp_path / "data"
    script.main([str(photos), "--output", str(data)])
    assert lines_of(data / "captions.jsonl") == [
        {"image": "boxes/images/a.png", "caption": ["A dog.", "A person and a dog."]}
    ]
    assert [line["caption"] for line in lines_of(data / "names.jsonl")] == ["a red ant"] * 2
    texts = (data / "texts.txt").read_text().splitlines()
    assert {"A dog.", "a red ant", "person", "tench", "toilet paper"} <= set(texts)
    assert len(set(texts)) == len(texts)
    assert [c.name for c in ConceptDictionary.load(data / "concepts.jsonl")] == ["red ant"]


@pytest.mark.parametrize(("number", "held"), [(5, 0), (6, 1), (10, 1), (25, 2)])
def test_few_images_of_a_name_are_kept_out_of_training(number, held):
    lines = [{"image": f"{i}", "caption": "ant"} for i in range(number)]
    train, val = script.split_names(lines)
    assert len(val) == held
    assert sorted(map(str, [*train, *val])) == sorted(map(str, lines))
    assert script.split_names(lines) == (train, val)


def test_at_most_two_hundred_images_are_kept_out():
    lines = [{"image": f"{i}", "caption": f"name {i % 30}"} for i in range(3000)]
    train, val = script.split_names(lines)
    assert (len(train), len(val)) == (2800, 200)
