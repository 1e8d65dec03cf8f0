import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from lvis import LVIS, LVISEval

from detclip2.data.sources.emoji import EmojiScenes, register_emoji_validation
from detclip2.evaluation.lvis_evaluator import LVISEvaluator, numpy_with_float

NAME = "test_lvis_evaluator"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve scenes of 96 x 96 px with 30 categories, registered."""
    scenes = EmojiScenes(30, "val", count=12, size=96)
    json_file = register_emoji_validation(NAME, scenes, tmp_path_factory.mktemp("scenes"))
    yield DatasetCatalog.get(NAME), json_file
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def detections(records, seed=0):
    """Most boxes, some of them a bit off, with some of the wrong category and some false alarms."""
    rng = np.random.default_rng(seed)
    found = []
    for record in records:
        boxes, classes = [], []
        for annotation in record["annotations"]:
            if rng.random() < 0.2:
                continue
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            boxes.append(np.array(box) + rng.uniform(-3, 3, 4))
            wrong = rng.random() < 0.1
            classes.append(int(rng.integers(30)) if wrong else annotation["category_id"])
        for _ in range(3):
            corner = rng.uniform(0, 60, 2)
            boxes.append(np.concatenate([corner, corner + rng.uniform(5, 30, 2)]))
            classes.append(int(rng.integers(30)))
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes), dtype=torch.float32))
        instances.pred_classes = torch.tensor(classes)
        instances.scores = torch.tensor(rng.random(len(boxes)), dtype=torch.float32)
        found.append(instances)
    return found


def ours(records, found, folder):
    evaluator = LVISEvaluator(NAME, tasks=["bbox"], output_dir=str(folder))
    evaluator.reset()
    for record, instances in zip(records, found, strict=True):
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def by_the_api(records, found, json_file, folder):
    """The lvis package, given the detections as its own documentation says."""
    results = [
        {
            "image_id": record["image_id"],
            "category_id": int(category) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for record, instances in zip(records, found, strict=True)
        for (x1, y1, x2, y2), category, score in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.pred_classes,
            instances.scores,
            strict=True,
        )
    ]
    path = folder / "detections.json"
    path.write_text(json.dumps(results))
    with numpy_with_float():
        evaluation = LVISEval(LVIS(str(json_file)), str(path), "bbox")
        evaluation.run()
    return {name: value * 100 for name, value in evaluation.get_results().items()}


def test_average_precision_is_that_of_the_lvis_api(dataset, tmp_path):
    records, json_file = dataset
    found = detections(records)
    measured = ours(records, found, tmp_path / "ours")
    expected = by_the_api(records, found, json_file, tmp_path)
    assert measured.keys() == {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"}
    for name, value in measured.items():
        assert value == pytest.approx(expected[name], abs=1e-6), name
    assert 5 < measured["AP"] < 95
    assert all(measured[name] >= 0 for name in ("APr", "APc", "APf"))


def test_the_truth_scores_100_and_nothing_scores_0(dataset, tmp_path):
    records, _ = dataset
    perfect = []
    for record in records:
        boxes = [a["bbox"] for a in record["annotations"]]
        truth = Instances((record["height"], record["width"]))
        truth.pred_boxes = Boxes(
            BoxMode.convert(
                torch.tensor(boxes, dtype=torch.float32), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
            )
        )
        truth.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        truth.scores = torch.ones(len(boxes))
        perfect.append(truth)
    measured = ours(records, perfect, tmp_path / "perfect")
    assert [measured[n] for n in ("AP", "APr", "APc", "APf")] == pytest.approx([100] * 4)
    nothing = [instances[:0] for instances in perfect]
    assert ours(records, nothing, tmp_path / "nothing")  # no failure, whatever the numbers


def test_numpy_is_left_as_it_was():
    before = "float" in vars(np)
    with numpy_with_float():
        assert np.float is float
    assert ("float" in vars(np)) == before
