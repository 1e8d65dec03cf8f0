import json

import pytest

from detclip2.finetuning.coco_check import read_own_data
from detclip2.finetuning.partial_labels import Counts, boxed_names, count_labels, labels_of
from detclip2.utils.errors import UserError
from tests.helpers.own_data import own_content, write_own_data

NAMES = ["red square", "blue square", "cat", "dog"]


def content_of(count=3, **keys):
    """Four names; each image has a red and a blue square, the first image also `keys`."""
    content = own_content(count)
    content["categories"] = [{"id": 10 * i, "name": name} for i, name in enumerate(NAMES, 1)]
    for one in content["annotations"]:
        one["category_id"] *= 10
    content["images"][0].update(keys)
    return content


def read(tmp_path, content, **options):
    path = write_own_data(tmp_path / "data", content)
    return read_own_data(path, path.parent, **options)


def labels(data, number=0):
    image = data.images[number]
    return tuple(map(sorted, labels_of(image, boxed_names(data)[image["id"]], len(data.names))))


def found(data):
    kinds = {kind: len(places) for kind, places in data.findings.items()}
    kinds.pop("category-empty", None)
    return kinds


@pytest.mark.parametrize(
    ("keys", "negative", "partial"),
    [
        ({}, [2, 3], []),
        ({"neg_category_ids": [30]}, [2], []),
        ({"neg_category_ids": []}, [], []),
        ({"neg_category_ids": [40, 30, 40]}, [2, 3], []),
        ({"neg_category_ids": ["30", 40.0]}, [2, 3], []),
        ({"not_exhaustive_category_ids": [20]}, [2, 3], [1]),
        ({"neg_category_ids": [40], "not_exhaustive_category_ids": [10, 30]}, [3], [0, 2]),
        ({"exhaustive_for": ["Red_Square", "DOG"]}, [3], [1]),
        ({"exhaustive_for": NAMES}, [2, 3], []),
        ({"exhaustive_for": []}, [], [0, 1]),
        ({"exhaustive_for": "coco80"}, [2, 3], [0, 1]),
        ({"exhaustive_for": "lvis"}, [2, 3], [0, 1]),
        ({"exhaustive_for": ["blue square"], "neg_category_ids": [30]}, [2], [0]),
    ],
)
def test_lists_say_what_is_known_of_an_image(tmp_path, keys, negative, partial):
    data = read(tmp_path, content_of(**keys))
    assert labels(data) == ([0, 1], negative, partial)
    assert labels(data, 1) == ([0, 1], [2, 3], [])
    assert found(data) == {}
    written = data.to_coco(["cow", *NAMES])["images"][0]
    if len(negative) + len(set(partial) - {0, 1}) < 2:
        assert written["neg_category_ids"] == [i + 2 for i in negative]
    else:  # nothing is unknown
        assert "neg_category_ids" not in written
    assert written.get("not_exhaustive_category_ids", []) == [i + 2 for i in partial]


@pytest.mark.parametrize(
    ("keys", "finding", "negative"),
    [
        ({"neg_category_ids": [10, 30]}, "label-contradicted", [2]),
        ({"neg_category_ids": [30, 77]}, "label-unknown", [2]),
        ({"neg_category_ids": [[30], {}, 30]}, "label-unknown", [2]),
        ({"exhaustive_for": ["red square", "blue square", "catt", "dog"]}, "label-unknown", [3]),
    ],
)
def test_faulty_lists_are_counted_and_the_boxes_kept(tmp_path, keys, finding, negative):
    data = read(tmp_path, content_of(**keys))
    assert set(found(data)) == {finding}
    assert labels(data) == ([0, 1], negative, [])
    assert len(data.annotations) == 6


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_lists_of_null_are_not_stated_and_other_things_refused(tmp_path, key):
    data = read(tmp_path, content_of(**{key: None}))
    assert not found(data)
    assert labels(data) == ([0, 1], [2, 3], [])
    with pytest.raises(UserError, match=rf"image 1 has '{key}' '30'; expected a list of ids"):
        read(tmp_path, content_of(**{key: "30"}))


@pytest.mark.parametrize("value", ["coco81", 80, [1], None])
def test_an_unknown_vocabulary_is_refused(tmp_path, value):
    with pytest.raises(UserError, match=r"'exhaustive_for' of 1\.png is .*coco80, coco, lvis"):
        read(tmp_path, content_of(exhaustive_for=value))


def test_an_image_of_which_nothing_is_known_is_skipped(tmp_path):
    content = content_of(neg_category_ids=[], not_exhaustive_category_ids=[10])
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] > 1]
    data = read(tmp_path, content)
    assert [image["file_name"] for image in data.images] == ["2.png", "3.png"]
    assert found(data) == {"image-unlabelled": 1}
    assert len(read(tmp_path, content, exhaustive=True).images) == 3


def test_exhaustive_ignores_the_lists(tmp_path):
    keys = {"neg_category_ids": [30], "exhaustive_for": [], "not_exhaustive_category_ids": [20]}
    data = read(tmp_path, content_of(**keys), exhaustive=True)
    assert labels(data) == ([0, 1], [2, 3], [])


def test_images_of_each_name_are_counted(tmp_path):
    content = content_of(4, neg_category_ids=[30], not_exhaustive_category_ids=[40])
    content["images"][1]["not_exhaustive_category_ids"] = [10, 40]
    data = read(tmp_path, content)
    expected = {
        "Blue square": Counts(4, 0, 0),
        "cat": Counts(0, 4, 0),
        "dog": Counts(0, 2, 2),
        "cow": Counts(0, 0, 4),
    }
    assert count_labels(data, list(expected)) == list(expected.values())
    assert count_labels(data, ["cow"], exhaustive=True) == [Counts(0, 4, 0)]


def test_images_of_lvis_are_found_by_their_url(tmp_path):
    content = content_of(1, neg_category_ids=[30])
    (tmp_path / "data" / "val2017").mkdir(parents=True)
    write_own_data(tmp_path / "data", content)
    (tmp_path / "data" / "1.png").rename(tmp_path / "data" / "val2017" / "1.png")
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/val2017/1.png"
    path = tmp_path / "data" / "lvis.json"
    path.write_text(json.dumps(content))
    assert read_own_data(path, path.parent).images[0]["file_name"] == "val2017/1.png"
