"""COCO and LVIS json files become records."""

import json
from unittest import TestCase

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.lvis import load_lvis_json, register_lvis_instances
from detectron2.structures import BoxMode

NAME = "contract_json"
LVIS_NAME = "contract_lvis_v1"
TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0]


@pytest.fixture(autouse=True)
def _clean():
    yield
    for name in (NAME, LVIS_NAME):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def annotation(id_, image_id=7, category_id=5, **more):
    box = {"bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0}
    return {"id": id_, "image_id": image_id, "category_id": category_id, **box, **more}


@pytest.fixture
def write(tmp_path):
    def write(annotations, **image_fields):
        content = {
            "images": [
                {"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10, **image_fields}
                for i in (7, 2)
            ],
            "categories": [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}],
            "annotations": annotations,
        }
        path = tmp_path / "data.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_records_with_classes_from_0(write):
    path = write([annotation(1, iscrowd=1), annotation(2, category_id=9, colour="red")])
    empty, record = load_coco_json(path, "images", NAME, ["colour"])
    assert empty == {
        "file_name": "images/2.jpg",
        "height": 10,
        "width": 20,
        "image_id": 2,
        "annotations": [],
    }
    box = {"bbox": [1.0, 2.0, 3.0, 4.0], "bbox_mode": BoxMode.XYWH_ABS}
    assert record["image_id"] == 7
    assert record["annotations"] == [
        {**box, "category_id": 0, "iscrowd": 1},
        {**box, "category_id": 1, "colour": "red"},
    ]
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {5: 0, 9: 1}


def test_ids_stay_without_a_name(write):
    _, record = load_coco_json(write([annotation(1)]), "images")
    assert record["annotations"][0]["category_id"] == 5


def test_registered_file_is_read_when_asked_for(write):
    path = write([annotation(1)])
    register_coco_instances(NAME, {"colour": "red"}, path, "images")
    metadata = MetadataCatalog.get(NAME)
    assert (metadata.json_file, metadata.image_root) == (path, "images")
    assert (metadata.evaluator_type, metadata.colour) == ("coco", "red")
    assert not hasattr(metadata, "thing_classes")
    assert [record["image_id"] for record in DatasetCatalog.get(NAME)] == [2, 7]
    assert metadata.thing_classes == ["cat", "dog"]


def test_segmentations(write):
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[2:5, 3:9] = 1
    compressed = mask_util.encode(np.asfortranarray(mask))
    as_text = {**compressed, "counts": compressed["counts"].decode()}
    runs = np.flatnonzero(np.diff(mask.flatten("F"), prepend=0, append=0))
    uncompressed = {"size": [10, 20], "counts": np.diff(runs, prepend=0, append=200).tolist()}
    path = write(
        [
            annotation(1, segmentation=[TRIANGLE, [1.0, 1.0, 2.0, 2.0]]),
            annotation(2, segmentation=as_text),
            annotation(3, segmentation=uncompressed),
            annotation(4, segmentation=[[1.0, 1.0, 2.0, 2.0]]),
            annotation(5, segmentation=[]),
        ]
    )
    with TestCase().assertLogs("detectron2", "WARNING"):
        _, record = load_coco_json(path, "images")
    polygon, from_text, from_runs, without = record["annotations"]
    assert polygon["segmentation"] == [TRIANGLE]
    assert np.array_equal(mask_util.decode(from_text["segmentation"]), mask)
    assert np.array_equal(mask_util.decode(from_runs["segmentation"]), mask)
    assert "segmentation" not in without


def test_keypoints_are_points_not_pixels(write):
    _, record = load_coco_json(write([annotation(1, keypoints=[3, 4, 2, 0, 0, 0])]), "images")
    assert record["annotations"][0]["keypoints"] == [3.5, 4.5, 2, 0.5, 0.5, 0]


def test_annotations_of_absent_images_are_reported(write):
    path = write([annotation(1), annotation(2, image_id=3)])
    with TestCase().assertLogs("detectron2", "WARNING"):
        records = load_coco_json(path, "images")
    assert [len(record["annotations"]) for record in records] == [0, 1]


@pytest.mark.parametrize(
    ("annotations", "error"),
    [
        ([annotation(1), annotation(1)], AssertionError),
        ([annotation(1, ignore=1)], AssertionError),
        ([annotation(1, bbox=[])], ValueError),
        ([annotation(1, category_id=6)], KeyError),
    ],
)
def test_broken_coco_files(write, annotations, error):
    with pytest.raises(error):
        load_coco_json(write(annotations), "images", NAME)


def test_file_without_categories(tmp_path):
    captions = {"images": [], "annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    with pytest.raises(KeyError):
        load_coco_json(str(tmp_path / "captions.json"), "images", NAME)


@pytest.fixture
def write_lvis(tmp_path):
    def write(annotations):
        names = ["aerosol_can", "air_conditioner", "airplane"]
        image = {
            "id": 4,
            "coco_url": "http://images.cocodataset.org/val2017/000000000004.jpg",
            "width": 20,
            "height": 10,
            "neg_category_ids": [2],
            "not_exhaustive_category_ids": [3],
        }
        categories = [
            {"id": i, "name": n, "synonyms": [n], "frequency": "r", "image_count": 1}
            for i, n in enumerate(names, start=1)
        ]
        content = {"images": [image], "categories": categories, "annotations": annotations}
        path = tmp_path / "lvis.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def lvis_annotation(id_, **more):
    return annotation(id_, image_id=4, **{"category_id": 3, "segmentation": [TRIANGLE], **more})


def test_lvis_records(write_lvis):
    path = write_lvis([lvis_annotation(1, colour="red")])
    (record,) = load_lvis_json(path, "images/", LVIS_NAME, ["colour"])
    assert record["file_name"] == "images/val2017/000000000004.jpg"
    assert (record["height"], record["width"], record["image_id"]) == (10, 20, 4)
    assert record["neg_category_ids"] == [2]
    assert record["not_exhaustive_category_ids"] == [3]
    (found,) = record["annotations"]
    assert found["category_id"] == 2
    assert (found["bbox"], found["bbox_mode"]) == ([1.0, 2.0, 3.0, 4.0], BoxMode.XYWH_ABS)
    assert (found["segmentation"], found["colour"]) == ([TRIANGLE], "red")
    classes = MetadataCatalog.get(LVIS_NAME).thing_classes
    assert classes[:3] == ["aerosol_can", "air_conditioner", "airplane"]


def test_lvis_registration(write_lvis):
    path = write_lvis([lvis_annotation(1)])
    register_lvis_instances(LVIS_NAME, {}, path, "images/")
    assert len(DatasetCatalog.get(LVIS_NAME)) == 1
    metadata = MetadataCatalog.get(LVIS_NAME)
    assert (metadata.json_file, metadata.evaluator_type) == (path, "lvis")
    with pytest.raises(AssertionError):
        register_lvis_instances(LVIS_NAME, {}, path, "images/")


def test_broken_lvis_files(write_lvis):
    for broken in (
        lvis_annotation(1, segmentation=[[1, 1, 2, 2]]),
        lvis_annotation(1, segmentation=[]),
    ):
        with pytest.raises(AssertionError):
            load_lvis_json(write_lvis([broken]), "images/")
    with pytest.raises(AssertionError):
        load_lvis_json(write_lvis([lvis_annotation(1), lvis_annotation(1)]), "images/")
    with pytest.raises(ValueError, match="some_other_name"):
        load_lvis_json(write_lvis([lvis_annotation(1)]), "images/", "some_other_name")
