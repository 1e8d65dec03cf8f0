"""Accuracy of names against a loop over boxes, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
from detclip2.evaluation.open_vocabulary import open_vocabulary_evaluator
from detclip2.utils.errors import UserError

SPLITS = ("base", "base", "novel")


def write_truth(folder, truths, **image_keys):
    """Truths: (image, class, XYWH). Categories have ids 11, 12, 13."""
    content = {
        "images": [{"id": i, "height": 100, "width": 100, **image_keys} for i in (1, 2, 3)],
        "categories": [
            {"id": 11 + n, "name": f"thing {n}", "split": split, "frequency": frequency}
            for n, (split, frequency) in enumerate(zip(SPLITS, "ffr", strict=True))
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 11 + c, "bbox": box,
             "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, c, box) in enumerate(truths, 1)
        ],
    }  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path):
    name = "name_accuracy_toy"
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(json_file=str(tmp_path / "truth.json"))
    yield name
    MetadataCatalog.remove(name)


def instances(found):
    """Found: (class, score, XYXY)."""
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor([box for _, _, box in found]).reshape(-1, 4).float()),
        scores=torch.tensor([score for _, score, _ in found]).float(),
        pred_classes=torch.tensor([c for c, _, _ in found], dtype=torch.int64),
    )


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def slow(truths, detections):
    """Right, found and all, of each class."""
    counts = np.zeros((3, 3), int)
    for image, own, (x, y, w, h) in truths:
        best = None
        for name, score, box in detections[image]:
            overlap = iou((x, y, x + w, y + h), box)
            if overlap >= 0.5 and (best is None or (score, overlap) > best[:2]):
                best = score, overlap, name
        counts[own] += (best is not None and best[2] == own, best is not None, 1)
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_loop_over_boxes_says(tmp_path, dataset, seed):
    rng = np.random.default_rng(seed)
    truths, detections = [], {1: [], 2: [], 3: []}
    for image in (1, 2):
        for _ in range(12):
            x, y = rng.integers(0, 60, 2).tolist()
            w, h = rng.integers(10, 40, 2).tolist()
            truths.append((image, int(rng.integers(3)), [x, y, w, h]))
            for _ in range(int(rng.integers(4))):
                a, b, c, d = rng.integers(-5, 6, 4).tolist()
                box = [x + a, y + b, x + w + c, y + h + d]
                score = float(np.float32(rng.integers(1, 5) / 8))  # many are equal
                detections[image].append((int(rng.integers(3)), score, box))
    write_truth(tmp_path, truths)
    evaluator = NameAccuracyEvaluator(dataset, output_dir=str(tmp_path / "out"))
    for image in (2, 3, 1):
        evaluator.process([{"image_id": image}], [{"instances": instances(detections[image])}])
    results = evaluator.evaluate()["names"]
    counts = slow(truths, detections)
    right, found, total = counts.sum(axis=0)
    assert 0 < right < found < total
    assert results["accuracy"] == pytest.approx(100 * right / total)
    assert results["found"] == pytest.approx(100 * found / total)
    assert results["chance"] == pytest.approx(100 / 3)
    for split in ("base", "novel"):
        members = [n for n, own in enumerate(SPLITS) if own == split]
        right, _, total = counts[members].sum(axis=0)
        assert results[f"accuracy-{split}"] == pytest.approx(100 * right / total)
    written = json.loads((tmp_path / "out" / "name_accuracy.json").read_text())
    assert written["names"] == results
    evaluator.reset()
    with pytest.raises(UserError, match="no image"):
        evaluator.evaluate()


def test_nothing_to_name_is_not_a_number(tmp_path, dataset):
    write_truth(tmp_path, [(1, 0, [10, 10, 20, 20])])
    evaluator = NameAccuracyEvaluator(dataset)
    evaluator.process([{"image_id": 2}], [{"instances": instances([])}])
    assert evaluator.evaluate()["names"]["accuracy"] != evaluator.evaluate()["names"]["accuracy"]
    evaluator.process([{"image_id": 1}], [{"instances": instances([])}])
    assert evaluator.evaluate()["names"]["accuracy"] == 0
    assert np.isnan(evaluator.evaluate()["names"]["accuracy-novel"])


@pytest.mark.parametrize(
    ("image", "found", "message"),
    [
        (9, [], "image 9, which is not in"),
        (1, [(0, float("nan"), [0, 0, 5, 5])], "not a finite number"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, dataset, image, found, message):
    write_truth(tmp_path, [(1, 0, [10, 10, 20, 20])])
    with pytest.raises(UserError, match=message):
        NameAccuracyEvaluator(dataset).process(
            [{"image_id": image}], [{"instances": instances(found)}]
        )


def test_one_image_twice_is_refused(tmp_path, dataset):
    write_truth(tmp_path, [(1, 0, [10, 10, 20, 20])])
    evaluator = NameAccuracyEvaluator(dataset)
    for _ in range(2):
        evaluator.process([{"image_id": 1}], [{"instances": instances([])}])
    with pytest.raises(UserError, match="twice"):
        evaluator.evaluate()


def test_all_measures_of_one_pass_and_ap_of_splits(tmp_path, dataset):
    """Class 0 is found perfectly, 1 not at all, 2 in one of its two boxes."""
    truths = [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40]), (2, 2, [0, 0, 40, 40]),
              (3, 2, [0, 0, 40, 40])]  # fmt: skip
    write_truth(tmp_path, truths, neg_category_ids=[11, 12, 13], not_exhaustive_category_ids=[])
    MetadataCatalog.get(dataset).set(
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1, 13: 2}, thing_classes=["a", "b", "c"]
    )
    evaluator = open_vocabulary_evaluator(dataset, output_dir=str(tmp_path / "out"))
    found = {1: [(0, 0.9, [0, 0, 40, 40])], 2: [(2, 0.8, [0, 0, 40, 40])], 3: []}
    for image, of_image in found.items():
        evaluator.process([{"image_id": image}], [{"instances": instances(of_image)}])
    results = evaluator.evaluate()
    assert set(results) == {"bbox", "bbox_fixed", "box_recall", "names"}
    fixed = results["bbox_fixed"]
    half = 100 * 51 / 101  # of 101 recalls, those up to a half have precision 1
    assert [fixed["AP-base"], fixed["AP50-base"]] == pytest.approx([50] * 2)
    of_novel = [fixed["AP-novel"], fixed["AP50-novel"], fixed["APr"]]
    assert of_novel == pytest.approx([half] * 3)
    assert results["box_recall"]["AR@100"] == pytest.approx(50)
    assert results["names"]["accuracy-novel"] == pytest.approx(50)
    with pytest.raises(UserError, match="boxes"):
        open_vocabulary_evaluator(dataset, tasks=["segm"])


def test_a_box_under_many_names_does_not_fill_what_recall_counts(tmp_path, dataset):
    write_truth(
        tmp_path, [(1, 0, [0, 0, 40, 40]), (1, 1, [50, 50, 40, 40])],
        neg_category_ids=[13], not_exhaustive_category_ids=[],
    )  # fmt: skip
    MetadataCatalog.get(dataset).set(
        thing_dataset_id_to_contiguous_id={11: 0, 12: 1, 13: 2}, thing_classes=["a", "b", "c"]
    )
    evaluator = open_vocabulary_evaluator(dataset, max_detections=[2])
    found = [(c, 0.9, [0, 0, 40, 40]) for c in range(3)] + [(1, 0.5, [50, 50, 90, 90])]
    for image in (1, 2, 3):
        of_image = found if image == 1 else []
        evaluator.process([{"image_id": image}], [{"instances": instances(of_image)}])
    assert evaluator.evaluate()["box_recall"]["AR@2"] == pytest.approx(100)
