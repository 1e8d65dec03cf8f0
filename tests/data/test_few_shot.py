import json
from collections import Counter

import pytest

from detclip2.data.few_shot import few_shot_split
from detclip2.data.io.coco_json import read_coco_json
from detclip2.utils.errors import UserError

REAL = ["aquarium_test/annotations.json", "bccd/train.json"]


def boxes_of(content):
    """Class -> boxes with area."""
    return Counter(
        box["category_id"]
        for box in content["annotations"]
        if box["bbox"][2] > 0 and box["bbox"][3] > 0
    )


@pytest.mark.parametrize("file", REAL)
@pytest.mark.parametrize("shots", [1, 3, 5, 10])
@pytest.mark.parametrize("seed", [3, 30])
def test_every_class_has_enough_boxes(test_data, file, shots, seed):
    content = read_coco_json(test_data / file)
    split = few_shot_split(content, shots, seed)
    whole, few = boxes_of(content), boxes_of(split)
    assert all(few[c["id"]] >= min(shots, whole[c["id"]]) for c in content["categories"])
    assert split["categories"] == content["categories"]
    taken = {image["id"] for image in split["images"]}
    assert len(taken) <= shots * len(content["categories"])
    assert split["images"] == [image for image in content["images"] if image["id"] in taken]
    # An image has all of its boxes.
    assert split["annotations"] == [b for b in content["annotations"] if b["image_id"] in taken]


@pytest.mark.parametrize("file", REAL)
def test_different_seeds_give_different_splits(test_data, file):
    content = read_coco_json(test_data / file)
    assert few_shot_split(content, 3, 7) == few_shot_split(content, 3, 7)
    splits = {json.dumps(few_shot_split(content, 3, seed)["images"]) for seed in range(5)}
    assert len(splits) == 5


def small(boxes):
    """Annotations with one image for each list of classes in `boxes`; classes are 1, 2, 3."""
    return {
        "images": [{"id": i} for i in range(len(boxes))],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": c, "bbox": [0, 0, 4, 4]}
            for i, classes in enumerate(boxes)
            for j, c in enumerate(classes)
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in (1, 2, 3)],
    }


def test_the_images_of_a_seed_never_change():
    """A published split must never change."""
    split = few_shot_split(small([[1], [2], [3], [1], [2], [3], [1, 2]]), 1, 3)
    assert [image["id"] for image in split["images"]] == [0, 2, 6]


def test_a_rare_class_keeps_all_its_boxes_and_is_named(caplog):
    split = few_shot_split(small([[1], [1], [2], [1], [1, 2]]), 2, 0)
    assert boxes_of(split)[2] == 2
    assert "class 'class 3' has 0 boxes" in caplog.text
    assert "class 1" not in caplog.text


def test_boxes_without_area_and_crowds_do_not_count():
    content = small([[1], [1], [1], [2], [3]])
    content["annotations"][0]["bbox"] = [0, 0, 4, 0]
    content["annotations"][1]["iscrowd"] = 1
    for seed in range(10):
        images = {image["id"] for image in few_shot_split(content, 1, seed)["images"]}
        assert images == {2, 3, 4}


def test_an_impossible_split_is_reported():
    with pytest.raises(UserError, match="shots is 0"):
        few_shot_split(small([[1]]), 0, 0)
    with pytest.raises(UserError, match="no box"):
        few_shot_split(small([[], []]), 1, 0)
