import copy
import json

import pytest

from detclip2.data.io.coco_json import read_coco_json
from detclip2.utils.errors import UserError

CONTENT = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 10}],
    "annotations": [{"id": 7, "image_id": 1, "category_id": 2, "bbox": [0, 0, 5, 5.5]}],
    "categories": [{"id": 2, "name": "fish"}],
}


def read(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return read_coco_json(path)


def test_a_valid_file_is_returned(tmp_path):
    assert read(tmp_path, CONTENT) == CONTENT
    assert read(tmp_path, {**CONTENT, "annotations": []})["annotations"] == []


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", "id"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "id"),
        ("categories", "name"),
    ],
)
def test_a_missing_key_is_named_with_its_file_and_place(tmp_path, part, key):
    content = copy.deepcopy(CONTENT)
    del content[part][0][key]
    with pytest.raises(UserError, match=rf"annotations\.json: .*{part!r} has no key {key!r}"):
        read(tmp_path, content)


@pytest.mark.parametrize("part", CONTENT)
def test_a_missing_part_is_named(tmp_path, part):
    content = {key: value for key, value in CONTENT.items() if key != part}
    with pytest.raises(UserError, match=rf"annotations\.json has no key {part!r}"):
        read(tmp_path, content)
    with pytest.raises(UserError, match="not a list"):
        read(tmp_path, {**CONTENT, part: {}})
    with pytest.raises(UserError, match="not an object"):
        read(tmp_path, {**CONTENT, part: [3]})


def test_no_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="no images"):
        read(tmp_path, {**CONTENT, "images": [], "annotations": []})


@pytest.mark.parametrize("box", [[0, 0, 5], "0 0 5 5", [0, 0, 5, None], [0, 0, 5, True], None])
def test_a_box_has_four_numbers(tmp_path, box):
    content = copy.deepcopy(CONTENT)
    content["annotations"][0]["bbox"] = box
    with pytest.raises(UserError, match="annotation 7 has the bbox"):
        read(tmp_path, content)


def test_a_repeated_id_is_refused(tmp_path):
    with pytest.raises(UserError, match="two entries of 'images' have the id 1"):
        read(tmp_path, {**CONTENT, "images": CONTENT["images"] * 2})


def test_a_file_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"images": [')
    with pytest.raises(UserError, match=r"half\.json"):
        read_coco_json(path)
    with pytest.raises(UserError, match=r"absent\.json"):
        read_coco_json(tmp_path / "absent.json")


def test_a_file_that_is_listed_twice_has_what_either_entry_states(tmp_path):
    path = tmp_path / "a.json"
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "a.jpg", "width": 8, "height": 6},
    ]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert read_coco_json(path)["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}
    ]
