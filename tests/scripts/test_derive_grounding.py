import json

import numpy as np
import pytest

from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.mappers import GroundingMapper, draw_sample
from detclip2.data.sample import check_sample
from detclip2.data.skips import SkipCounter
from detclip2.data.text.concepts import Concept, ConceptDictionary
from scripts import derive_grounding as script

CATEGORIES = ["person", "dog", "hot dog", "skis", "dining table"]


def derive(caption, boxes, known=None, take_all=False):
    """Phrase -> indices of the boxes, for a caption of one image with boxes of these categories."""
    instances = {
        "images": [{"id": 3, "file_name": "a.jpg", "height": 9, "width": 9}],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(CATEGORIES)],
        "annotations": [
            {"image_id": 3, "category_id": 10 + CATEGORIES.index(name), "bbox": [i, 0, 1, 1]}
            for i, name in enumerate(boxes)
        ],
    }
    captions = {"annotations": [{"image_id": 3, "caption": caption}]}
    result = script.derive(instances, captions, known, take_all)
    assert result["info"]["rule_derived"] is True
    found = {}
    for annotation in result["annotations"]:
        (image,) = result["images"]
        for begin, end in annotation["tokens_positive"]:
            found.setdefault(image["caption"][begin:end], []).append(annotation["bbox"][0])
    return found


@pytest.mark.parametrize(
    ("caption", "boxes", "expected"),
    [
        ("A large dog sits.", ["dog", "person"], {"large dog": [0]}),
        ("Two dogs and a person.", ["dog", "person", "dog"], {"dogs": [0, 2], "person": [1]}),
        ("A dog sits.", ["dog", "dog"], {}),
        ("A hot dog on a table.", ["hot dog", "dog", "dining table"], {"hot dog": [0]}),
        ("Several people outside.", ["person", "person"], {"people": [0, 1]}),
        ("A pair of skis.", ["skis", "skis"], {"skis": [0, 1]}),
        ("A cat on the sofa.", ["dog"], {}),
        ("A dog.", [], {}),
    ],
)
def test_the_rule(caption, boxes, expected):
    assert derive(caption, boxes) == expected


def test_synonyms_and_ambiguous_phrases():
    known = ConceptDictionary([Concept("table", synonyms=("dining table", "desk"))])
    assert derive("A small desk.", ["dining table"]) == {}
    assert derive("A small desk.", ["dining table"], known) == {"small desk": [0]}
    assert derive("A dog sits.", ["dog", "dog"], take_all=True) == {"dog": [0, 1]}


def test_a_repeated_phrase_is_found_twice():
    instances = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
    }
    texts = [
        {"image_id": 1, "caption": "A dog looks at a dog."},
        {"image_id": 9, "caption": "A dog."},
        {"image_id": 1, "caption": None},
        {"image_id": 1, "caption": ""},
    ]
    result = script.derive(instances, {"annotations": texts})
    assert len(result["images"]) == 1
    caption = result["images"][0]["caption"]
    for begin, end in result["annotations"][0]["tokens_positive"]:
        assert caption[begin:end] == "dog"


def test_on_coco(test_data, tmp_path):
    folder = test_data / "coco_open/annotations"
    output = tmp_path / "grounding.json"
    arguments = {
        "--instances": folder / "instances_val2017.json",
        "--captions": folder / "captions_val2017.json",
        "--output": output,
    }
    assert script.main([str(x) for pair in arguments.items() for x in pair]) == 0
    counter = SkipCounter()
    records = mdetr_records(str(output), str(test_data / "coco_open/val2017"), counter)
    assert counter.total() == 0
    assert len(records) > 40
    content = json.loads((folder / "instances_val2017.json").read_text())
    real = {tuple(a["bbox"]) for a in content["annotations"]}
    mapper = GroundingMapper()
    for index, record in enumerate(records):
        assert {tuple(a["bbox"]) for a in record["annotations"]} <= real
        if index % 8 == 0:
            check_sample(draw_sample(records, index, mapper, np.random.default_rng(0)), 100)


def test_mistakes_are_sentences(tmp_path, capsys):
    nowhere = str(tmp_path / "none.json")
    assert script.main(["--instances", nowhere, "--captions", nowhere, "--output", nowhere]) == 2
    assert "none.json" in capsys.readouterr().err
