import json
import logging

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.utils.errors import UserError
from tests.helpers import toy_coco
from tests.helpers.processes import run_processes

NAME = "test_average_recall"
LIMITS = (3, 10, 40)
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


@pytest.fixture
def truth(tmp_path):
    truth = toy_coco.content(num_images=12)
    toy_coco.register(NAME, truth, tmp_path)
    return truth


def measured(found, **settings):
    evaluator = AverageRecallEvaluator(NAME, LIMITS, **settings)
    return toy_coco.feed(evaluator, found).evaluate()["box_recall"]


def overlap(a, b):
    """IoU of two boxes, XYWH."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def found_boxes(boxes, detections, threshold, area):
    """Number of matched boxes of a size, when detections choose in the order of their scores.

    Each matches the unmatched box with the largest IoU; boxes of the size come first.
    """
    low, high = area
    free = dict(enumerate(boxes))
    counted = 0
    for detection in detections:
        reach = {
            i: overlap(detection["bbox"], box["bbox"])
            for i, box in free.items()
            if overlap(detection["bbox"], box["bbox"]) >= threshold
        }
        wanted = {i: iou for i, iou in reach.items() if low <= free[i]["area"] <= high}
        if choice := wanted or reach:
            counted += bool(wanted)
            del free[max(choice, key=choice.get)]
    return counted


def slowly(truth, found):
    """Average recall by counting; without crowds."""
    assert not any(box["iscrowd"] for box in truth["annotations"])
    detections = {}
    for detection in toy_coco.as_results(found):
        detections.setdefault(detection["image_id"], []).append(detection)
    for of_image in detections.values():
        of_image.sort(key=lambda d: -d["score"])
    results = {}
    for suffix, area in AREAS.items():
        total = sum(area[0] <= box["area"] <= area[1] for box in truth["annotations"])
        for limit in LIMITS:
            recalls = []
            for threshold in np.linspace(0.5, 0.95, 10):
                counted = sum(
                    found_boxes(
                        [b for b in truth["annotations"] if b["image_id"] == image_id],
                        of_image[:limit],
                        threshold,
                        area,
                    )
                    for image_id, of_image in detections.items()
                )
                recalls.append(counted / total)
            results[f"AR{suffix}@{limit}"] = 100 * np.mean(recalls)
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_average_recall_equals_counting(tmp_path, seed):
    truth = toy_coco.content(num_images=12, seed=seed)
    for box in truth["annotations"]:
        box["iscrowd"] = 0
    toy_coco.register(NAME, truth, tmp_path)
    found = toy_coco.detections(truth, seed)
    expected = slowly(truth, found)
    assert 5 < expected["AR@3"] < expected["AR@10"] < expected["AR@40"] < 95
    assert measured(found) == pytest.approx(expected)


def test_average_recall_equals_pycocotools_on_files(truth, tmp_path):
    """All images at once, with a crowd; the evaluator processes them one by one."""
    found = toy_coco.detections(truth)
    (tmp_path / "found.json").write_text(json.dumps(toy_coco.as_results(found)))
    coco = COCO(str(tmp_path / f"{NAME}.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = list(LIMITS)
    evaluation.evaluate()
    evaluation.accumulate()
    recall = 100 * evaluation.eval["recall"][:, 0].mean(axis=0)  # (area, limit)
    expected = {
        f"AR{suffix}@{limit}": recall[a, i]
        for a, suffix in enumerate(AREAS)
        for i, limit in enumerate(LIMITS)
    }
    assert measured(found) == pytest.approx(expected)


def test_names_do_not_matter(truth):
    found = toy_coco.detections(truth)
    expected = measured(found)
    for instances in found.values():
        instances.pred_classes = torch.zeros_like(instances.pred_classes)
    assert measured(found) == expected


def test_missing_images_count_as_missed(truth):
    found = toy_coco.detections(truth)
    half = dict(list(found.items())[:6])
    nothing = {i: instances[:0] for i, instances in list(found.items())[6:]}
    assert measured(half) == measured({**half, **nothing})
    assert measured(half)["AR@40"] < measured(found)["AR@40"]


def test_area_and_iscrowd_are_optional(truth, tmp_path):
    """LVIS's json has no `iscrowd`; without `area` the box has its own."""
    found = toy_coco.detections(truth)
    for box in truth["annotations"]:
        box.update(iscrowd=0, area=box["bbox"][2] * box["bbox"][3])
    toy_coco.register(NAME, truth, tmp_path)
    expected = measured(found)
    for box in truth["annotations"]:
        del box["iscrowd"], box["area"]
    toy_coco.register(NAME, truth, tmp_path)
    assert measured(found) == expected


def test_recall_of_a_size_without_boxes_is_nan(truth, tmp_path):
    truth["annotations"] = [b for b in truth["annotations"] if b["area"] < 32**2]
    toy_coco.register(NAME, truth, tmp_path)
    results = measured(toy_coco.detections(truth), output_dir=str(tmp_path / "out"))
    assert np.isnan(results["ARl@10"])
    assert results["ARs@10"] == results["AR@10"] > 0
    written = json.loads((tmp_path / "out" / "average_recall.json").read_text())
    assert written["box_recall"]["ARl@10"] is None


def test_the_protocol_is_one_line(truth, caplog):
    with caplog.at_level(logging.INFO, "detclip2"):
        measured(toy_coco.detections(truth))
    (line,) = (line for line in caplog.messages if line.startswith("Protocol: "))
    assert "3, 10, 40 of an image" in line
    assert "without classes" in line


def test_real_annotations_of_lvis(test_data, tmp_path):
    """The truth as detections has recall 1, with 1,230 classes and without `iscrowd`."""
    truth = json.loads((test_data / "lvis" / "lvis_v0.5_val_100.json").read_text())
    truth["images"] = truth["images"][:30]
    boxes = {image["id"]: [] for image in truth["images"]}
    truth["annotations"] = [b for b in truth["annotations"] if b["image_id"] in boxes]
    toy_coco.register(NAME, truth, tmp_path)
    for box in truth["annotations"]:
        x, y, w, h = box["bbox"]
        boxes[box["image_id"]].append([x, y, x + w, y + h])
    found = {
        image_id: Instances(
            (9, 9),
            pred_boxes=Boxes(torch.tensor(of_image, dtype=torch.float64).reshape(-1, 4)),
            scores=torch.ones(len(of_image)),
            pred_classes=torch.arange(len(of_image)),
        )
        for image_id, of_image in boxes.items()
    }
    evaluator = AverageRecallEvaluator(NAME, (1, 300))
    results = toy_coco.feed(evaluator, found).evaluate()["box_recall"]
    assert results["AR@300"] == pytest.approx(100, abs=0.2)
    first = sum(map(bool, boxes.values())) / len(truth["annotations"])
    assert results["AR@1"] == pytest.approx(100 * first, abs=0.2)


def part_of_a_process(rank, world_size, folder):
    truth = toy_coco.content(num_images=12)
    if rank == 0:
        toy_coco.register(NAME, truth, folder)
    else:
        own = folder / str(rank)
        own.mkdir()
        toy_coco.register(NAME, truth, own)
    found = list(toy_coco.detections(truth).items())[rank::world_size]
    evaluator = AverageRecallEvaluator(NAME, LIMITS, output_dir=str(folder / "out"))
    results = toy_coco.feed(evaluator, dict(found)).evaluate()
    return results


@pytest.mark.processes
def test_two_processes_give_the_recall_of_one(truth, tmp_path):
    expected = measured(toy_coco.detections(truth))
    results = run_processes(part_of_a_process, 2, tmp_path)
    assert results == [{"box_recall": expected}, None]
    written = json.loads((tmp_path / "out" / "average_recall.json").read_text())
    assert written["box_recall"] == expected


def test_invalid_input_is_refused(truth, tmp_path):
    found = toy_coco.detections(truth)
    with pytest.raises(UserError, match="image 99, which is not in"):
        measured({99: found[1]})
    with pytest.raises(UserError, match="no image was evaluated"):
        measured({})
    with pytest.raises(UserError, match="max_detections"):
        AverageRecallEvaluator(NAME, ())
    evaluator = toy_coco.feed(AverageRecallEvaluator(NAME, LIMITS), found)
    evaluator.process([{"image_id": 1}], [{"instances": found[1]}])
    with pytest.raises(UserError, match="twice"):
        evaluator.evaluate()
    found[3].scores[0] = float("nan")
    with pytest.raises(UserError, match="a score of image 3 is not a finite number"):
        measured(found)
