"""The file of all detections, read by other tools."""

import csv
import json

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from detclip2.inference.results import Labels
from detclip2.inference.results_file import COLUMNS, ResultsFile

LABELS = ("red apple", 'drum, "small"')


def found(boxes, classes):
    return Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        labels=Labels(LABELS[c] for c in classes),
    )


def written(path):
    results = ResultsFile(path, LABELS)
    results.add("a.jpg", found([[10, 20, 30, 50], [0, 0, 80, 60]], [1, 0]))
    results.add("clip.mp4", found([], []), frame=7)
    results.write()
    return path


def test_json_is_read_by_pycocotools(tmp_path):
    path = written(tmp_path / "all.json")
    coco = COCO(str(path))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(LABELS)
    assert coco.imgs[1] == {"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}
    assert coco.imgs[2]["frame"] == 7
    [drum] = coco.loadAnns(coco.getAnnIds(imgIds=1, catIds=1))
    assert drum["bbox"] == [10, 20, 20, 30]
    assert drum["area"] == 600
    again = coco.loadRes(json.loads(path.read_text())["annotations"])
    assert len(again.getAnnIds(imgIds=1)) == 2
    assert again.getAnnIds(imgIds=2) == []


@pytest.mark.parametrize("polygons", [False, True])
def test_masks_are_read_by_pycocotools(tmp_path, polygons):
    results = ResultsFile(tmp_path / "all.json", LABELS, polygons)
    instances = found([[10, 20, 30, 50]], [1])
    instances.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    instances.pred_masks[0, 20:40, 10:30] = True
    results.add("a.jpg", instances)
    results.write()
    coco = COCO(str(tmp_path / "all.json"))
    [drum] = coco.loadAnns(coco.getAnnIds())
    assert drum["area"] == 400
    assert isinstance(drum["segmentation"], list) == polygons
    difference = coco.annToMask(drum) != instances.pred_masks[0].numpy()
    assert difference.sum() <= (4 if polygons else 0)


def test_csv(tmp_path):
    with written(tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0] == {
        "file_name": "a.jpg", "frame": "", "label": LABELS[1], "score": "0.9000",
        "x1": "10.00", "y1": "20.00", "x2": "30.00", "y2": "50.00", "track": "",
    }  # fmt: skip
    assert len(rows) == 2
