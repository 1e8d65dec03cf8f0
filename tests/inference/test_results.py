import json
import sys

import numpy as np
import pandas as pd
import pytest
import supervision as sv
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.inference.results import Labels, to_coco, to_pandas, to_supervision
from detclip2.utils.errors import UserError

NAMES = ["red apple", "пёс", "fire engine"]


def result(boxes, classes, scores):
    return Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=Labels(NAMES[c] for c in classes),
    )


@pytest.fixture
def two():
    return result([[10, 20, 30, 50], [0, 0, 80, 7.5]], [2, 1], [0.75, 0.5])


@pytest.fixture
def nothing():
    return result([], [], [])


def test_labels_follow_the_other_fields():
    instances = Instances(
        (9, 9), scores=torch.tensor([0.9, 0.1, 0.5]), labels=Labels(["a", "b", "c"])
    )
    assert instances[instances.scores > 0.3].labels == ["a", "c"]
    assert instances[torch.tensor([2, 0])].labels == ["c", "a"]
    assert instances[1:].labels == ["b", "c"]
    assert instances[0].labels == ["a"]
    assert instances.labels[-1] == "c"
    assert Instances.cat([instances[:1], instances[2:]]).labels == ["a", "c"]
    assert Labels("ab")[np.array([False, True])] == ["b"]


def test_to_supervision(two, nothing):
    detections = to_supervision(two)
    assert detections.xyxy.tolist() == [[10, 20, 30, 50], [0, 0, 80, 7.5]]
    assert detections.confidence.tolist() == [0.75, 0.5]
    assert detections.class_id.tolist() == [2, 1]
    assert detections["class_name"].tolist() == ["fire engine", "пёс"]
    # Operations of supervision work on the names too.
    assert detections[detections["class_name"] == "пёс"].confidence.tolist() == [0.5]
    merged = sv.Detections.merge([detections, to_supervision(nothing), detections])
    assert merged["class_name"].tolist() == ["fire engine", "пёс"] * 2
    assert len(to_supervision(nothing)) == 0


def test_pycocotools_reads_to_coco(two, nothing, tmp_path):
    """The truth as detections has an average precision of 1."""
    ids = [7, 1, 30]
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 30, "bbox": [10, 20, 20, 30], "area": 600},
        {"id": 2, "image_id": 5, "category_id": 1, "bbox": [0, 0, 80, 7.5], "area": 600},
    ]
    truth = {
        "info": {},
        "images": [{"id": 5, "height": 60, "width": 80}],
        "categories": [{"id": i, "name": name} for i, name in zip(ids, NAMES, strict=True)],
        "annotations": [{**annotation, "iscrowd": 0} for annotation in annotations],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = COCO(str(tmp_path / "truth.json"))
    rows = to_coco(two, 5, ids)
    (tmp_path / "results.json").write_text(json.dumps(rows + to_coco(nothing, 5)))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    assert [row["score"] for row in rows] == [0.75, 0.5]
    assert [row["category_id"] for row in to_coco(two, "x")] == [2, 1]
    assert {row["image_id"] for row in to_coco(two, "x")} == {"x"}


def with_masks(instances):
    """In each box its lower half."""
    masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, instances.pred_boxes.tensor.int(), strict=True):
        mask[(y0 + y1) // 2 : y1, x0:x1] = True
    instances.pred_masks = masks
    return instances


def test_masks_in_cocos_format(two):
    masks = with_masks(two).pred_masks.numpy()
    for row, mask in zip(to_coco(two, 5), masks, strict=True):
        assert np.array_equal(coco_masks.decode(row["segmentation"]), mask)
        assert row["area"] == mask.sum()
    for row, mask in zip(to_coco(two, 5, polygons=True), masks, strict=True):
        [polygon] = row["segmentation"]
        drawn = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([polygon], 60, 80)))
        assert (drawn.astype(bool) != mask).sum() <= 8
        assert row["area"] == mask.sum()
    json.dumps(to_coco(two, 5))
    two.pred_masks[0] = False
    first, second = to_coco(two, 5, polygons=True)
    assert "segmentation" not in first
    assert "segmentation" in second
    assert coco_masks.area(to_coco(two, 5)[0]["segmentation"]) == 0


def test_masks_in_supervision(two, nothing):
    detections = to_supervision(with_masks(two))
    assert np.array_equal(detections.mask, two.pred_masks.numpy())
    annotated = sv.MaskAnnotator().annotate(np.zeros((60, 80, 3), np.uint8), detections)
    assert (annotated.any(axis=2) == two.pred_masks.any(dim=0).numpy()).all()
    assert to_supervision(nothing).mask is None
    assert len(to_supervision(with_masks(nothing))) == 0


def test_to_pandas(two, nothing):
    table = to_pandas([two, nothing, two])
    assert list(table.columns) == ["image", "label", "score", "x1", "y1", "x2", "y2", "class_id"]
    assert table["image"].tolist() == [0, 0, 2, 2]
    assert table.groupby("label")["score"].max().to_dict() == {"fire engine": 0.75, "пёс": 0.5}
    assert table.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == [10, 20, 30, 50]
    pd.testing.assert_frame_equal(to_pandas(two), table[:2])
    again = iter([two, nothing, two])  # as a predictor returns for a generator
    pd.testing.assert_frame_equal(to_pandas(again), table)


def test_without_pandas(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        to_pandas(two)


def test_to_pandas_of_nothing(two, nothing):
    types = to_pandas(two).dtypes
    for empty in (nothing, [nothing, nothing], []):
        table = to_pandas(empty)
        assert len(table) == 0
        assert table.dtypes.drop("label").equals(types.drop("label"))
    assert types["x1"] == np.float32
