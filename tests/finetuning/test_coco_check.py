import json

import numpy as np
import pytest
from pycocotools import mask as masks

from detclip2.finetuning.coco_check import FINDINGS, read_own_data
from detclip2.utils.errors import UserError
from tests.helpers.own_data import HEIGHT, WIDTH, own_content, write_own_data


def read(tmp_path, content):
    path = write_own_data(tmp_path / "data", content)
    return read_own_data(path, path.parent)


def found(data):
    return {kind: len(examples) for kind, examples in data.findings.items()}


def test_valid_data_is_unchanged(tmp_path):
    content = own_content()
    data = read(tmp_path, content)
    assert data.findings == {}
    again = data.to_coco(data.names)
    for key in ("images", "categories"):
        assert again[key] == content[key]
    boxes = [one["bbox"] for one in content["annotations"]]
    np.testing.assert_array_equal([one["bbox"] for one in again["annotations"]], boxes)
    assert data.counts() == [(6, 6), (6, 6)]


def broken(**changes):
    """The first annotation with other values; a value of None deletes the key."""

    def change(content):
        annotation = content["annotations"][0]
        annotation.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del annotation[key]

    return change


def corners(content):
    for one in content["annotations"]:
        x, y, w, h = one["bbox"]
        one["bbox"] = [x + 20, y + 10, x + 20 + w - 10, y + 10 + h]


def string_ids(content):
    for part in ("images", "categories"):
        for one in content[part]:
            one["id"] = f"{part}-{one['id']}"
    for one in content["annotations"]:
        one.update(
            id=f"a{one['id']}",
            image_id=f"images-{one['image_id']}",
            category_id=f"categories-{one['category_id']}",
        )


def ids_as_text_in_annotations_alone(content):
    for one in content["annotations"]:
        one.update(image_id=str(one["image_id"]), category_id=float(one["category_id"]))


def rle(counts_as_list):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[8:32, 4:24] = 1
    if not counts_as_list:
        encoded = masks.encode(mask)
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}


POLYGON = [[4.0, 8.0, 24.0, 8.0, 24.0, 32.0, 4.0, 32.0]]
WRONG_RLE = {"size": [1, 1], "counts": "x"}


@pytest.mark.parametrize(
    ("change", "findings", "first_box"),
    [
        (broken(attributes={}), {"key-unknown": 1}, [4, 8, 20, 24]),
        (string_ids, {"id-not-integer": 8}, [4, 8, 20, 24]),
        (ids_as_text_in_annotations_alone, {}, [4, 8, 20, 24]),
        (broken(bbox=None, segmentation=POLYGON), {"box-derived": 1}, [4, 8, 20, 24]),
        (broken(bbox=[], segmentation=rle(False)), {"box-derived": 1}, [4, 8, 20, 24]),
        (broken(bbox=None, segmentation=rle(True)), {"box-derived": 1}, [4, 8, 20, 24]),
        (broken(bbox=None, segmentation=[[1, 2]]), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=None, segmentation=WRONG_RLE), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=None), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=[24, 32, -20, -24]), {"box-flipped": 1}, [4, 8, 20, 24]),
        (broken(bbox=[-10, 8, 34, 24]), {"box-outside": 1}, [0, 8, 24, 24]),
        (broken(bbox=[50, 40, 100, 100]), {"box-outside": 1}, [50, 40, 14, 8]),
        (broken(bbox=[100, 8, 20, 24]), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=[4, 8, 0, 24]), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=[4, 8, float("nan"), 24]), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(bbox=["a", 8, 20, 24]), {"box-unusable": 1}, [34, 8, 20, 24]),
        (broken(image_id=77), {"image-unknown": 1}, [34, 8, 20, 24]),
        (broken(category_id=77), {"category-unknown": 1}, [34, 8, 20, 24]),
        (corners, {"box-corners": 12}, [24, 18, 10, 24]),
    ],
)  # fmt: skip
def test_faults_are_fixed_or_skipped_and_counted(tmp_path, change, findings, first_box):
    content = own_content()
    change(content)
    data = read(tmp_path, content)
    counts = found(data)
    if "box-derived" in findings:  # only this annotation has `segmentation`
        assert "key-unknown" not in counts
    assert {kind: counts.get(kind) for kind in findings} == findings
    assert set(counts) <= {*findings, "image-empty"}
    np.testing.assert_allclose(data.annotations[0]["bbox"], first_box)
    assert [one["id"] for one in data.annotations] == list(range(1, len(data.annotations) + 1))
    json.dumps(data.to_coco(data.names))


def test_few_boxes_are_not_taken_for_corners(tmp_path):
    content = own_content(count=2)
    corners(content)
    assert "box-corners" not in found(read(tmp_path, content))


def test_names_become_phrases_and_equal_ones_are_merged(tmp_path):
    content = own_content()
    names = ["red_square", "Red  square", "cup, saucer", "été 🍎", "unused"]
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    for one in content["annotations"]:
        one["category_id"] = 1 + one["id"] % 4
    data = read(tmp_path, content)
    assert data.names == ["red square", "cup, saucer", "été 🍎", "unused"]
    assert found(data) == {"category-twice": 1, "category-empty": 1}
    assert sum(boxes for _, boxes in data.counts()) == 12


def test_one_category_and_ten_thousand(tmp_path):
    content = own_content()
    content["categories"] = content["categories"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 1]
    assert found(read(tmp_path, content)) == {"category-alone": 1}
    content["categories"] = [{"id": i, "name": f"thing {i}"} for i in range(1, 10_001)]
    data = read(tmp_path, content)
    assert len(data.names) == 10_000
    assert found(data) == {"category-empty": 9999}


def test_unusable_images_are_skipped_with_their_boxes(tmp_path):
    content = own_content()
    content["images"][0]["file_name"] = "../elsewhere.png"
    content["images"][1]["width"] = 640
    content["images"][2]["file_name"] = "damaged.png"
    content["images"].append({"id": 1, "file_name": "again.png"})
    content["images"].append({"id": 99, "file_name": "empty.png"})
    path = write_own_data(tmp_path / "data", content)
    (tmp_path / "elsewhere.png").unlink()
    (path.parent / "damaged.png").write_bytes(b"no image")
    data = read_own_data(path, path.parent)
    assert found(data) == {
        **{"image-missing": 1, "image-mismatched": 1, "image-damaged": 1},
        **{"id-twice": 1, "image-empty": 1},
    }
    assert [image["file_name"] for image in data.images] == ["4.png", "5.png", "6.png", "empty.png"]
    assert len(data.annotations) == 6


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "has no key 'images'"),
        ({"images": []}, "has no key 'annotations'"),
        ({**own_content(), "images": {}}, "'images' is not a list of objects"),
        ({**own_content(), "annotations": [1]}, "'annotations' is not a list of objects"),
        ({**own_content(), "categories": []}, "no entry with an id and a name"),
        ({**own_content(), "images": []}, "no image can be used"),
        ({**own_content(), "annotations": []}, "no box can be used"),
    ],
)
def test_data_without_usable_boxes_is_refused(tmp_path, content, sentence):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    write_own_data(tmp_path, own_content(), "other.json")
    with pytest.raises(UserError, match=sentence):
        read_own_data(path, tmp_path)


def test_the_wrong_folder_of_images_is_reported(tmp_path):
    path = write_own_data(tmp_path / "data", own_content())
    with pytest.raises(UserError, match=r"6 of 6 images are not in .*such as 1.png"):
        read_own_data(path, tmp_path)
    with pytest.raises(UserError, match=r"no\.json"):
        read_own_data(tmp_path / "no.json", tmp_path)


def test_every_kind_of_fault_has_a_description():
    assert all(what and done for what, done in FINDINGS.values())


def test_blood_cells_have_two_boxes_without_area(test_data):
    folder = test_data / "bccd"
    data = read_own_data(folder / "train.json", folder / "images")
    assert data.names == ["WBC", "RBC", "Platelets"]
    assert len(data.images) == 205
    unusable = len(data.findings.get("box-unusable", []))
    assert len(data.annotations) == 2805 - unusable
    assert unusable <= 2
