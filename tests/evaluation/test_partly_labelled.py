"""AP50 by name against pycocotools, and names that are unknown in an image."""

import copy
import json
import math

import numpy as np
import pytest

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.federated import Federated
from detclip2.evaluation.partly_labelled import (
    PartlyLabelledEvaluator,
    ap50_by_name,
    frequent_names,
    precision_by_score,
)
from tests.helpers import toy_coco

NAME = "test_partly_labelled"


@pytest.fixture
def truth(tmp_path):
    truth = toy_coco.content()
    toy_coco.register(NAME, truth, tmp_path)
    return truth


def test_on_exhaustive_images_the_mean_is_coco_ap50(truth):
    found = toy_coco.detections(truth)
    expected = toy_coco.feed(CheckedCOCOEvaluator(NAME), found).evaluate()["bbox"]
    evaluator = PartlyLabelledEvaluator(NAME, ["fish", "eel", "whale"])
    results = toy_coco.feed(evaluator, found).evaluate()["bbox"]
    of_name = {name: results[f"AP50-{name}"] for name in toy_coco.NAMES}
    assert np.mean(list(of_name.values())) == pytest.approx(expected["AP50"])
    assert results["AP50-names"] == pytest.approx((of_name["fish"] + of_name["eel"]) / 2)
    assert {key: results[key] for key in expected} == expected


def test_unknown_names_count_neither_as_wrong_nor_as_missed(truth):
    """As if the images were absent for these names, and as they are for the others."""
    found = toy_coco.as_results(toy_coco.detections(truth))
    fish, crab, eel = toy_coco.IDS
    partly = copy.deepcopy(truth)
    for image in partly["images"][:3]:
        here = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({crab, eel} - here)
        image["not_exhaustive_category_ids"] = [fish] if fish in here else []
    rest = {i["id"] for i in truth["images"][3:]}
    without = {
        **truth,
        "images": truth["images"][3:],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in rest],
    }
    whole = ap50_by_name(truth, found)
    measured = ap50_by_name(partly, found)
    of_rest = ap50_by_name(without, [d for d in found if d["image_id"] in rest])
    assert measured == {"fish": of_rest["fish"], "crab": whole["crab"], "eel": whole["eel"]}
    assert measured["fish"] != whole["fish"]


def test_which_names_are_exhaustive():
    content = {
        "categories": [{"id": i} for i in (1, 2, 3, 4)],
        "images": [
            {"id": "whole"},
            {"id": "part", "neg_category_ids": [3], "not_exhaustive_category_ids": [2]},
        ],
        "annotations": [{"image_id": "part", "category_id": c} for c in (1, 2)],
    }
    federated = Federated(content)
    for image, exhaustive in (("whole", {1, 2, 3, 4}), ("part", {1, 3})):
        assert {i for i in (1, 2, 3, 4) if federated.is_exhaustive(image, i)} == exhaustive


def test_nothing_detected_is_zero_and_nothing_to_find_is_undefined(truth):
    truth["categories"].append({"id": 99, "name": "whale"})
    measured = ap50_by_name(truth, [])
    assert {name: measured[name] for name in toy_coco.NAMES} == dict.fromkeys(toy_coco.NAMES, 0)
    assert math.isnan(measured["whale"])


def test_frequent_names(tmp_path):
    content = {
        "images": [{"id": 1}],
        "annotations": [{"id": i, "image_id": 1, "category_id": i % 3 // 2} for i in range(9)],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert frequent_names(str(path), 3) == ["dog", "cat"]
    assert frequent_names(str(path), 4) == ["dog"]


def test_precision_by_score():
    box = [10, 10, 20, 20]
    content = {
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "images": [{"id": 1}, {"id": 2, "neg_category_ids": []}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [90, 90, 20, 20], "iscrowd": 1},
        ],
    }
    found = [(1, 1, 0.95, box), (1, 1, 0.92, box), (1, 2, 0.91, [92, 92, 9, 9]), (2, 1, 0.94, box)]
    found += [(1, 2, 0.2, box)]
    detections = [
        dict(zip(("image_id", "category_id", "score", "bbox"), one, strict=True)) for one in found
    ]
    # Of the four sure ones, the second is a repetition, the third of a crowd, the last unknown.
    rows = precision_by_score(content, detections, (0.1, 0.5, 0.9, 1.0))
    assert rows[0] == (0.1, 0.5, 1, 0.0)
    assert rows[1][:3] == (0.5, 0.9, 0)
    assert math.isnan(rows[1][3])
    assert rows[2] == (0.9, 1.0, 2, 50.0)
    assert precision_by_score(content, [], (0.0, 1.0))[0][:3] == (0.0, 1.0, 0)


def test_ap50_by_size_counts_boxes_of_the_size_alone():
    """The large dog is found and the small one is not; boxes of other sizes are ignored."""
    categories = [{"id": 1, "name": "dog"}]
    sides = {1: 20, 2: 200}
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 300} for i in sides]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, s, s], "area": s * s}
        for i, s in sides.items()
    ]
    content = {"images": images, "annotations": boxes, "categories": categories}
    found = [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 200, 200], "score": 0.9}]
    by_size = {size: ap50_by_name(content, found, size)["dog"] for size in ("small", "large")}
    assert by_size == {"small": 0.0, "large": 100.0}
    assert math.isnan(ap50_by_name(content, found, "medium")["dog"])
    assert ap50_by_name(content, found)["dog"] == pytest.approx(100 * 51 / 101)
