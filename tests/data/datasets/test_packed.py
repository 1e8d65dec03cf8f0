"""Packed records against the dicts that they are made of."""

import gc
import json
import math
import tracemalloc

import numpy as np
import pytest
from detectron2.structures import BoxMode

from detclip2.data.datasets.detection import detection_set
from detclip2.data.datasets.packed import PackedRecords, packed


def annotation(**changes):
    return {"bbox": [1.5, 2.0, 30.0, 40.25], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3,
            "iscrowd": 0, **changes}  # fmt: skip


RECORDS = [
    {"file_name": "a/é\udce9.jpg", "image_id": 7, "height": 60, "width": 80,
     "neg_category_ids": [2, 5], "annotations": [annotation(), annotation(iscrowd=1)]},
    {"file_name": "b.jpg", "image_id": "text", "annotations": []},
    {"file_name": "c.jpg", "image_id": 9, "annotations": [
        annotation(bbox=None),
        annotation(bbox=[1, 2, "3", 4], bbox_mode=BoxMode.XYXY_ABS),
        annotation(bbox=[1.0, 2.0, 3.0]),
        annotation(bbox=[2**70, 1, 2, 3], category_id=-1),
        annotation(category_id=None),
        annotation(category_id="cat"),
        annotation(category_id=2**40),
        annotation(category_id=True),
        annotation(segmentation=[[1.0, 2.0, 3.5, 4.0, 5.0, 6.0]]),
        annotation(bbox=[math.pi, -1e-300, 1e15, 0.1]),
    ]},
]  # fmt: skip


def test_records_come_back():
    records = PackedRecords(RECORDS)
    assert len(records) == 3
    assert records.num_boxes == 12
    assert list(records) == RECORDS
    assert records[-1] == RECORDS[-1]
    assert records[np.int64(0)] == RECORDS[0]
    assert records[1:] == RECORDS[1:]
    assert records[0]["annotations"][0]["bbox_mode"] is BoxMode.XYWH_ABS
    for index in (3, -4):
        with pytest.raises(IndexError):
            records[index]
    records[0]["annotations"].clear()  # a copy
    assert records[0] == RECORDS[0]


def test_changed_records_share_the_boxes():
    records = PackedRecords(RECORDS)
    other = records.changed(lambda record: {**record, "image_id": 0})
    assert [record["image_id"] for record in other] == [0, 0, 0]
    assert [record["annotations"] for record in other] == [r["annotations"] for r in RECORDS]
    assert other._boxes is records._boxes
    assert list(records) == RECORDS


def test_rle_of_pycocotools_becomes_text_and_images_stay_in_a_list():
    (record,) = PackedRecords([{"annotations": [annotation(segmentation={"counts": b"04"})]}])
    assert record["annotations"][0]["segmentation"] == {"counts": "04"}
    with_images = [{"image": np.zeros((2, 2, 3), np.uint8), "annotations": []}]
    assert packed(iter(with_images)) == with_images


def test_a_box_takes_at_most_60_bytes_and_no_object(tmp_path):
    """With 16 boxes an image, as Objects365; the records that are cached for their names too.

    Objects of Python would be copied in each forked worker, as their counts of references change.
    """
    rng = np.random.default_rng(0)
    num_images, num_boxes = 600, 16
    boxes = rng.uniform(1, 200, (num_images * num_boxes, 4)).tolist()
    content = {
        "images": [
            {"id": i, "file_name": f"images/v1/patch8/objects365_v1_{i:08}.jpg", "height": 480,
             "width": 640}
            for i in range(num_images)
        ],
        "annotations": [
            {"id": i, "image_id": i // num_boxes, "category_id": i % 365, "bbox": box, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": i, "name": str(i)} for i in range(365)],
    }  # fmt: skip
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(content))
    expected = content["annotations"][5 * num_boxes + 3]["bbox"]
    del content, boxes
    detection_set("test_packed_warm_up", str(path), "/images")
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    records = detection_set("test_packed", str(path), "/images")
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(records) == num_images
    assert records[5]["annotations"][3]["bbox"] == expected
    assert taken / (num_images * num_boxes) <= 60
    assert len(gc.get_objects()) - objects < num_images
