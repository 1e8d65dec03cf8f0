import copy
import csv
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, transforms
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.structures import BoxMode

from detclip2.data.datasets.detection import (
    category_names,
    detection_records,
    load_detection_json,
    register_detection,
)
from detclip2.data.mappers import DetectionMapper, draw_sample
from detclip2.data.sample import check_sample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError


@pytest.fixture
def register():
    """Register a data set for the length of one test."""
    names = []

    def apply(name, *args, by=register_detection, **kwargs):
        names.append(name)
        by(name, *args, **kwargs)
        return name

    yield apply
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def content():
    return {
        "images": [
            {"id": 5, "file_name": "b.jpg", "height": 10, "width": 20},
            {"id": 2, "file_name": "a.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81},
            {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 2, 2], "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "hot_dog"}],
    }


def written(tmp_path, value):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(value))
    return str(path)


def test_ids_become_contiguous_in_their_order(tmp_path):
    names, records, contiguous = load_detection_json(
        written(tmp_path, content()), "images", SkipCounter()
    )
    assert names == ["hot_dog", "dog"]
    assert contiguous == {3: 0, 7: 1}
    assert [r["file_name"] for r in records] == ["images/a.jpg", "images/b.jpg"]
    xywh = BoxMode.XYWH_ABS
    assert records[1]["annotations"] == [
        {"bbox": [1, 2, 3, 4], "bbox_mode": xywh, "category_id": 1, "iscrowd": 0},
        {"bbox": [0, 0, 2, 2], "bbox_mode": xywh, "category_id": 0, "iscrowd": 1},
    ]


def test_faults_in_the_file_are_skipped_and_counted(tmp_path):
    faulty = content()
    faulty["images"] += [
        {"id": 5, "file_name": "again.jpg"},
        {"file_name": "without id.jpg"},
        {"id": 9},
    ]
    faulty["categories"] += [{"id": 8}, {"id": 7, "name": "wolf"}, {"name": "without id"}]
    faulty["annotations"] += [
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2]},
        {"id": 4, "image_id": 77, "category_id": 7, "bbox": [0, 0, 2, 2]},
        {"id": 5, "image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 2]},
        {"id": 6, "image_id": 2, "bbox": [0, 0, 2, 2]},
        {"id": 7, "category_id": 7},
        {"id": 8, "image_id": 2, "category_id": 8, "bbox": [0, 0, 2, 2]},
        {"id": 9, "image_id": 2, "category_id": 7},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2], "ignore": 1},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2]},
    ]
    counter = SkipCounter()
    names, records, _ = load_detection_json(written(tmp_path, faulty), "x", counter)
    assert names == ["hot_dog", "dog", ""]
    assert counter.counts() == {
        "image-unknown": 2,
        "image-duplicate": 1,
        "category-duplicate": 1,
        "annotation-duplicate": 1,
        "category-unknown": 2,
        "record-malformed": 2,
    }
    mapper = DetectionMapper(names)
    image = np.zeros((30, 40, 3), np.uint8)
    sample = mapper({**records[0], "image": image}, np.random.default_rng(0))
    check_sample(sample, 150)
    assert len(sample["instances"]) == 3
    assert mapper.counter.counts() == {"category-unnamed": 1, "box-invalid": 1}
    assert draw_sample(records, 2, mapper, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "json"), ("[]", "images"), ('{"images": []}', "annotations"), ("\xff", "json")],
)
def test_a_file_of_another_kind_is_named(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as info:
        load_detection_json(str(path), "x", SkipCounter())
    assert str(path) in str(info.value)
    with pytest.raises(UserError, match=r"nowhere\.json"):
        load_detection_json(str(tmp_path / "nowhere.json"), "x", SkipCounter())


def test_registered_data_is_read_on_request(tmp_path, register):
    name = register("late_train", str(tmp_path / "instances.json"), "images")
    with pytest.raises(UserError, match=r"instances\.json"):
        detection_records(name)
    written(tmp_path, content())
    assert category_names(name) == ["hot dog", "dog"]
    assert [r["image_id"] for r in detection_records(name)] == [2, 5]
    with pytest.raises(UserError, match="no data set 'other_train'"):
        detection_records("other_train")


def test_records_of_detectron2s_own_reader(tmp_path, register):
    path = written(tmp_path, content())
    ours = register("ours_train", path, "images")
    theirs = register("theirs_train", {}, path, "images", by=register_coco_instances)
    assert list(detection_records(ours)) == list(detection_records(theirs))
    assert category_names(ours) == category_names(theirs)


def test_lvis_records_of_detectron2s_own_reader(test_data, register):
    path = str(test_data / "lvis/lvis_v0.5_val_100.json")
    ours = register("ours_lvis", path, "images", evaluator_type="lvis")
    theirs = register("lvis_v0.5_100", {}, path, "images/", by=register_lvis_instances)
    for mine, other in zip(detection_records(ours), detection_records(theirs), strict=True):
        for key in ("file_name", "image_id", "neg_category_ids", "not_exhaustive_category_ids"):
            assert mine[key] == other[key]
        boxes = [[(a["bbox"], a["category_id"]) for a in r["annotations"]] for r in (mine, other)]
        assert boxes[0] == boxes[1]


def test_lvis_ids_of_a_catalog_without_a_mapping_start_at_one(register):
    records = [{"image_id": 1, "neg_category_ids": [1, 3], "annotations": []}]
    before = copy.deepcopy(records)
    name = register("lvis_like", lambda: records, by=DatasetCatalog.register)
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
    assert detection_records(name)[0]["neg_category_ids"] == [0, 2]
    assert records == before


def test_masks_of_a_real_set(test_data, register):
    """The masks of COCO have the areas of the annotations."""
    folder = test_data / "coco_open"
    path = folder / "annotations/instances_val2017.json"
    name = register("open_masks", str(path), str(folder / "val2017"), masks=True)
    records = detection_records(name, masks=True)
    assert all("segmentation" in a for r in records for a in r["annotations"])
    assert not any("segmentation" in a for r in detection_records(name) for a in r["annotations"])
    mapper = DetectionMapper(category_names(name), keep=["gt_masks"])
    content = json.loads(path.read_text())
    checked = 0
    for index, record in enumerate(records):
        own = [a for a in content["annotations"] if a["image_id"] == record["image_id"]]
        own = [a for a in own if not a["iscrowd"]]
        sample = draw_sample(records, index, mapper, np.random.default_rng(index))
        check_sample(sample, 150)
        measured = sample["instances"].gt_masks.tensor.flatten(1).sum(dim=1).tolist()
        for annotation, pixels in zip(own, measured, strict=True):
            if annotation["area"] > 1000:  # of small ones, the edge is much
                assert pixels == pytest.approx(annotation["area"], rel=0.05)
                checked += 1
    assert checked > 50
    assert mapper.counter.total() == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco(test_data, register, split):
    folder = test_data / "coco_open"
    path = str(folder / f"annotations/instances_{split}2017.json")
    name = register(f"open_{split}", path, str(folder / f"{split}2017"))
    records, names = detection_records(name), category_names(name)
    theirs = load_coco_json(path, str(folder / f"{split}2017"), f"coco_open_{split}")
    assert [r["file_name"] for r in records] == [r["file_name"] for r in theirs]
    assert [[a["bbox"] for a in r["annotations"]] for r in records] == [
        [a["bbox"] for a in r["annotations"]] for r in theirs
    ]
    assert (len(records), len(names)) == ({"train": 26, "val": 25}[split], 80)
    mapper = DetectionMapper(names, [transforms.ResizeShortestEdge(200, 333)], max_phrases=40)
    boxes = 0
    for index in range(len(records)):
        sample = draw_sample(records, index, mapper, np.random.default_rng(index))
        check_sample(sample, 40)
        boxes += len(sample["instances"])
        crowd = {names[a["category_id"]] for a in records[index]["annotations"] if a["iscrowd"]}
        assert {sample["phrases"][i] for i in sample["not_exhaustive"]} == crowd
    content = json.loads((folder / f"annotations/instances_{split}2017.json").read_text())
    assert boxes == sum(not a["iscrowd"] for a in content["annotations"])
    assert mapper.counter.total() == 0


def test_lvis_without_images(test_data, register):
    path = test_data / "lvis/lvis_v0.5_val_100.json"
    name = register("lvis_v05_100", str(path), "images", evaluator_type="lvis")
    records, names = detection_records(name), category_names(name)
    content = json.loads(path.read_text())
    by_id = {c["id"]: c["name"].replace("_", " ") for c in content["categories"]}
    assert len(names) == 1230
    assert records[0]["file_name"].startswith("images/val2017/000000")
    mapper = DetectionMapper(names)
    images = {image["id"]: image for image in content["images"]}
    boxes = 0
    for index, record in enumerate(records):
        image = images[record["image_id"]]
        blank = np.zeros((record["height"], record["width"], 3), np.uint8)
        sample = mapper({**record, "image": blank}, np.random.default_rng(index))
        check_sample(sample, 150)
        boxes += len(sample["instances"])
        own = [a for a in content["annotations"] if a["image_id"] == record["image_id"]]
        positives = set(sample["phrases"][: sample["num_positives"]])
        assert positives == {by_id[a["category_id"]] for a in own} | {
            by_id[i] for i in image["not_exhaustive_category_ids"]
        }
        negatives = set(sample["phrases"][sample["num_positives"] :])
        assert negatives == {by_id[i] for i in image["neg_category_ids"]} - positives
        assert {sample["phrases"][i] for i in sample["not_exhaustive"]} == {
            by_id[i] for i in image["not_exhaustive_category_ids"]
        }
        assert sample["own_phrases_only"]
    assert boxes == len(content["annotations"]) == 977


def test_boxes_without_area_in_a_real_set(test_data, register):
    counts = {"train": (205, 2805, 1), "val": (87, 1138, 1)}
    for split, (images, boxes, invalid) in counts.items():
        path = test_data / f"bccd/{split}.json"
        name = register(f"bccd_{split}", str(path), str(test_data / "bccd/images"))
        records = detection_records(name)
        mapper = DetectionMapper(category_names(name))
        total = 0
        for record in records:
            blank = np.zeros((record["height"], record["width"], 3), np.uint8)
            sample = mapper({**record, "image": blank}, np.random.default_rng(0))
            check_sample(sample, 150)
            total += len(sample["instances"])
        assert (len(records), total) == (images, boxes - invalid)
        assert mapper.counter.counts() == {"box-invalid": invalid}


def test_objects365_names_as_coco_json(test_data, tmp_path, register):
    with open(test_data / "names/objects365_names.csv", newline="") as file:
        rows = list(csv.reader(file))
    value = content()
    value["categories"] = [{"id": int(row[0]), "name": row[1]} for row in rows]
    name = register("objects365_like", written(tmp_path, value), "images")
    names = category_names(name)
    assert len(names) == 365
    record = {**detection_records(name)[0], "image": np.zeros((30, 40, 3), np.uint8)}
    sample = DetectionMapper(names)(record, np.random.default_rng(0))
    check_sample(sample, 150)
    assert sample["phrases"][0] == "Chair"
    assert len(sample["phrases"]) == 150
