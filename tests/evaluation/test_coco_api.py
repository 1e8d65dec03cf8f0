"""AP and recall by faster-coco-eval against pycocotools on the same entries."""

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.evaluation import coco_api
from detclip2.evaluation.coco_api import AREAS, IOUS, METRICS, average_precision, curves

SIZE = 200
CLASSES = [2, 5, 9]


def entries(rng, task, num_images=25):
    """Boxes of all sizes, a tenth of them crowds, and detections with many equal scores.

    ``area`` is smaller than the box, and some images have only boxes or only detections.
    """
    boxes, detections = [], []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.poisson(3) * (image_id % 6 > 0)):
            edges = rng.choice([12, 50, 110]) * rng.uniform(0.7, 1.3, 2)
            box = [*rng.uniform(0, 60, 2), *edges]
            one = {"image_id": image_id, "category_id": int(rng.choice(CLASSES)), "bbox": box}
            boxes.append({**one, "area": 0.9 * edges.prod(), "iscrowd": int(rng.random() < 0.1)})
            for _ in range(rng.integers(0, 4) * (image_id % 7 > 0)):
                moved = np.abs(np.array(box) + rng.normal(0, 3, 4)) + 0.5
                detections.append({**one, "bbox": moved.tolist()})
        for _ in range(3):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(5, 120, 2)]
            category_id = int(rng.choice(CLASSES))
            detections.append({"image_id": image_id, "category_id": category_id, "bbox": box})
    for one in detections:
        one["score"] = float(rng.integers(1, 20) / 20)
    if task == "segm":
        for one in (*boxes, *detections):
            one["segmentation"] = outline(one["bbox"])
        for one in boxes:
            one["area"] = float(coco_masks.area(one["segmentation"]))
    return boxes, detections


def outline(box):
    """A triangle in the box, as RLE."""
    x, y, w, h = box
    triangle = [[x, y, x + w, y, x, y + h]]
    return coco_masks.merge(coco_masks.frPyObjects(triangle, SIZE, SIZE))


def by_pycocotools(boxes, detections, limits, task, by_class=True):
    """Precision (IoU, recall, class, area, limit) and recall."""
    indices = []
    for part in (boxes, detections):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": i, "height": SIZE, "width": SIZE}
                for i in {b["image_id"] for b in (*boxes, *detections)}
            ],
            "categories": [{"id": i} for i in CLASSES],
            "annotations": [{**one, "id": i} for i, one in enumerate(part, 1)],
        }
        if part is detections:
            for one in coco.dataset["annotations"]:
                area = one["bbox"][2] * one["bbox"][3]
                one["area"] = area if task == "bbox" else coco_masks.area(one["segmentation"])
        coco.createIndex()
        indices.append(coco)
    evaluation = COCOeval(*indices, task)
    evaluation.params.maxDets = limits
    evaluation.params.useCats = int(by_class)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("limits", [[100], [1, 2, 10], [300]])
def test_curves_equal_pycocotools(task, limits):
    """Crowds, ranges of area, equal scores, limits; with classes and without."""
    boxes, detections = entries(np.random.default_rng(3), task)
    precision, recall = by_pycocotools(boxes, detections, limits, task)
    assert 0.05 < precision[precision > -1].mean() < 0.95
    for i, identity in enumerate(CLASSES):
        own = ([b for b in part if b["category_id"] == identity] for part in (boxes, detections))
        found = curves(*own, limits, task)
        assert found.precision == pytest.approx(precision[:, :, i], abs=1e-12)
        assert found.recall == pytest.approx(recall[:, i], abs=1e-12)
    metrics, _ = average_precision(CLASSES, boxes, detections, limits[-1], task)
    of_package, _ = by_pycocotools(boxes, detections, limits[-1:], task)
    assert metrics["AP"] == pytest.approx(100 * mean(of_package[:, :, :, 0, 0]), abs=1e-6)
    assert metrics["APs"] == pytest.approx(100 * mean(of_package[:, :, :, 1, 0]), abs=1e-6)
    assert metrics["AP75"] == pytest.approx(100 * mean(of_package[5, :, :, 0, 0]), abs=1e-6)


def test_recall_without_classes_equals_pycocotools():
    rng = np.random.default_rng(0)
    boxes, detections = entries(rng, "bbox")
    for one, score in zip(detections, rng.random(len(detections)).tolist(), strict=True):
        one["score"] = score  # pycocotools orders equal ones by class
    _, recall = by_pycocotools(boxes, detections, [2, 10], "bbox", by_class=False)
    found = curves(boxes, detections, [2, 10])
    assert found.recall == pytest.approx(recall[:, 0], abs=1e-12)


def mean(precision):
    return precision[precision > -1].mean()


def test_constants_are_pycocotools():
    params = COCOeval(iouType="bbox").params
    assert params.iouThrs.tolist() == IOUS.tolist()
    assert dict(zip(params.areaRngLbl, map(tuple, params.areaRng), strict=True)) == AREAS
    assert len(params.recThrs) == coco_api.NUM_RECALLS


def test_nothing_to_find_and_nothing_found():
    box = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 40]}
    sure = {**box, "score": 1.0}
    assert (curves([], [sure], [1, 5]).precision == -1).all()
    assert (curves([{**box, "iscrowd": 1}], [sure]).recall == -1).all()
    assert (curves([box], []).precision[..., 0, 0] == 0).all()
    metrics, of_classes = average_precision([2, 5], [box], [sure])
    assert metrics == {**dict.fromkeys(METRICS, 100), "APs": pytest.approx(np.nan, nan_ok=True),
                       "APl": pytest.approx(np.nan, nan_ok=True)}  # fmt: skip
    assert of_classes == {2: 100, 5: pytest.approx(np.nan, nan_ok=True)}


def test_ids_of_images_may_be_text():
    """As numbers they would not be in the same order; equal scores are ordered by image."""
    rng = np.random.default_rng(0)
    boxes, detections = entries(rng, "bbox")
    expected, _ = average_precision(CLASSES, boxes, detections)
    for one in (*boxes, *detections):
        one["image_id"] = f"image {one['image_id']:03}.jpg"
    assert average_precision(CLASSES, boxes, detections)[0] == expected


def test_the_cost_grows_with_what_there_is_and_not_with_images_times_classes(monkeypatch):
    """An image enters the measure of a class only with a box or a detection of it."""
    images = []

    class Counting(coco_api.COCOeval_faster):
        def evaluate(self):
            images.append(len(self.params.imgIds))
            super().evaluate()

    monkeypatch.setattr(coco_api, "COCOeval_faster", Counting)
    rng = np.random.default_rng(0)
    boxes, detections = entries(rng, "bbox")
    classes = [*CLASSES, *range(100, 1100)]
    average_precision(classes, boxes, [*detections, {**detections[0], "category_id": 100}])
    pairs = {(one["image_id"], one["category_id"]) for one in (*boxes, *detections)}
    assert len(images) == len(CLASSES)
    assert sum(images) == len(pairs)
