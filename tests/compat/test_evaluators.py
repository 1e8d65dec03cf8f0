"""AP against pycocotools and lvis called directly, and models run over data sets."""

import contextlib
import io
import json
import math
from types import SimpleNamespace
from unittest import TestCase

import detectron2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.structures import Boxes, BoxMode, Instances
from lvis import LVIS, LVISEval, LVISResults
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

NAME = "contract_evaluators"
CLASSES = {3: "cat", 7: "dog", 8: "cow"}  # by the json's ids


@pytest.fixture(autouse=True)
def _clean():
    yield
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def boxes_of(rng, count):
    """XYWH of COCO's small and medium sizes."""
    corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(8, 90, (count, 2))
    return np.concatenate([corner, side], axis=1).round(2)


def make_truth(rng, lvis=False):
    ids = [1, 2, 3] if lvis else list(CLASSES)
    images, annotations = [], []
    for image_id in range(1, 9):
        image = {"id": image_id, "width": 160, "height": 160, "file_name": f"{image_id}.jpg"}
        if lvis:
            image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [2]}
        images.append(image)
        for box in boxes_of(rng, 4).tolist():
            x, y, w, h = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(ids[:2])),
                    "bbox": box,
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [
        {"id": i, "name": n, "synonyms": [n], "frequency": f, "image_count": 4, "instance_count": 4}
        for i, n, f in zip(ids, CLASSES.values(), "rcf", strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_detections(rng, truth, per_image=12):
    """By image: XYXY boxes near the true ones and elsewhere; scores; classes from 0."""
    ids = [category["id"] for category in truth["categories"]]
    detections = {}
    for image in truth["images"]:
        true = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        near = np.array([a["bbox"] for a in true]) + rng.normal(0, 1, (len(true), 4))
        boxes = np.concatenate([near, boxes_of(rng, per_image - len(true))]).clip(min=1)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((160, 160))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        scores = np.concatenate([rng.uniform(0.4, 1, len(true)), rng.random(per_image - len(true))])
        instances.scores = torch.tensor(scores, dtype=torch.float32)
        guesses = rng.integers(0, 2, per_image - len(true)).tolist()
        classes = [ids.index(a["category_id"]) for a in true] + guesses
        instances.pred_classes = torch.tensor(classes)
        detections[image["id"]] = instances
    return detections


def as_results(detections, category_ids):
    results = []
    for image_id, instances in detections.items():
        for box, score, category in zip(
            instances.pred_boxes.tensor.double().tolist(),
            instances.scores.tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        ):
            x0, y0, x1, y1 = box
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[category],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    return results


@pytest.fixture
def coco(tmp_path):
    """A registered data set, its json, and detections for it."""
    rng = np.random.default_rng(0)
    truth = make_truth(rng)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(truth))
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_classes=list(CLASSES.values()),
        thing_dataset_id_to_contiguous_id={id_: i for i, id_ in enumerate(CLASSES)},
    )
    return SimpleNamespace(path=str(path), truth=truth, detections=make_detections(rng, truth))


def run(evaluator, detections, **options):
    evaluator.reset()
    for image_id, instances in detections.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate(**options)


def pycocotools(path, results, limit=100, img_ids=None, task="bbox"):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        evaluation.params.maxDets = [1, 10, limit]
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
        if limit == 100:
            evaluation.summarize()
    return evaluation


def percent(x):
    return 100 * x if x >= 0 else math.nan


def test_coco_metrics(coco):
    results = run(COCOEvaluator(NAME, use_fast_impl=False), coco.detections)["bbox"]
    expected = pycocotools(coco.path, as_results(coco.detections, list(CLASSES)))
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    for name, value in zip(names, expected.stats, strict=False):
        assert results[name] == pytest.approx(percent(value), nan_ok=True, abs=1e-3)
    assert 5 < results["AP"] < 95
    assert math.isnan(results["APl"])
    precision = expected.eval["precision"][:, :, :, 0, -1]
    assert results["AP-cat"] == pytest.approx(100 * precision[:, :, 0].mean(), abs=1e-3)
    assert results["AP-dog"] == pytest.approx(100 * precision[:, :, 1].mean(), abs=1e-3)
    assert math.isnan(results["AP-cow"])


def test_boxes_can_be_added_to_the_annotations_of_an_evaluator(coco):
    """A crowd over all of an image: its detections without a match do not count as wrong."""
    evaluator = COCOEvaluator(NAME, use_fast_impl=False)
    before = run(evaluator, coco.detections)["bbox"]
    annotations = evaluator._coco_api.dataset["annotations"]
    for image_id in evaluator._coco_api.getImgIds():
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 3,
                "bbox": [-1e6, -1e6, 2e6, 2e6],
                "area": 4e12,
                "iscrowd": 1,
            }
        )
    evaluator._coco_api.createIndex()
    after = run(evaluator, coco.detections)["bbox"]
    assert after["AP-cat"] > before["AP-cat"] + 1
    assert after["AP-dog"] == before["AP-dog"]


def test_coco_metrics_do_not_depend_on_the_implementation(coco):
    fast = run(COCOEvaluator(NAME), coco.detections)["bbox"]
    slow = run(COCOEvaluator(NAME, use_fast_impl=False), coco.detections)["bbox"]
    assert fast == pytest.approx(slow, nan_ok=True)


@pytest.mark.parametrize("limit", [3, 5])
def test_coco_with_another_limit_of_detections(coco, limit):
    evaluator = COCOEvaluator(NAME, max_dets_per_image=limit, use_fast_impl=False)
    results = run(evaluator, coco.detections)["bbox"]
    evaluation = pycocotools(coco.path, as_results(coco.detections, list(CLASSES)), limit)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    assert results["AP"] == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-3)
    half = precision[0]
    assert results["AP50"] == pytest.approx(100 * half[half > -1].mean(), abs=1e-3)


def test_coco_on_some_images(coco):
    results = run(COCOEvaluator(NAME, use_fast_impl=False), coco.detections, img_ids=[2, 3])["bbox"]
    all_results = as_results(coco.detections, list(CLASSES))
    expected = pycocotools(coco.path, all_results, img_ids=[2, 3])
    assert results["AP"] == pytest.approx(percent(expected.stats[0]), abs=1e-3)


def test_perfect_and_absent_detections(coco):
    perfect = {}
    for image in coco.truth["images"]:
        own = [a for a in coco.truth["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own])
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((160, 160), pred_boxes=Boxes(torch.tensor(boxes)))
        instances.scores = torch.ones(len(own))
        instances.pred_classes = torch.tensor([list(CLASSES).index(a["category_id"]) for a in own])
        perfect[image["id"]] = instances
    assert run(COCOEvaluator(NAME), perfect)["bbox"]["AP"] == pytest.approx(100)
    nothing = {image_id: instances[:0] for image_id, instances in perfect.items()}
    assert all(math.isnan(value) for value in run(COCOEvaluator(NAME), nothing)["bbox"].values())
    assert run(COCOEvaluator(NAME), {}) == {}
    evaluator = COCOEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"something else": 1}])
    assert evaluator.evaluate() == {}


def test_coco_files(coco, tmp_path):
    output = tmp_path / "output"
    run(COCOEvaluator(NAME, output_dir=str(output)), coco.detections)
    written = json.loads((output / "coco_instances_results.json").read_text())
    expected = as_results(coco.detections, list(CLASSES))
    for found, wanted in zip(written, expected, strict=True):
        assert found["bbox"] == pytest.approx(wanted["bbox"], abs=1e-4)
        for key in ("image_id", "category_id", "score"):
            assert found[key] == wanted[key]
    predictions = torch.load(output / "instances_predictions.pth", weights_only=True)
    assert [p["image_id"] for p in predictions] == list(coco.detections)
    assert {d["category_id"] for p in predictions for d in p["instances"]} == {0, 1}


def test_coco_without_annotations(coco, tmp_path):
    test_set = {k: v for k, v in coco.truth.items() if k != "annotations"}
    (tmp_path / "coco.json").write_text(json.dumps(test_set))
    assert run(COCOEvaluator(NAME), coco.detections) == {}


def test_class_that_the_data_set_does_not_have(coco):
    coco.detections[1].pred_classes[0] = 3
    with pytest.raises(AssertionError, match="3"):
        run(COCOEvaluator(NAME), coco.detections)
    with pytest.raises(AssertionError):
        run(COCOEvaluator(NAME, tasks=("colour",)), coco.detections)


def test_coco_of_records(coco, tmp_path):
    MetadataCatalog.pop(NAME)
    records = []
    for image in coco.truth["images"]:
        own = [a for a in coco.truth["annotations"] if a["image_id"] == image["id"]]
        annotations = []
        for number, a in enumerate(own):
            x, y, w, h = a["bbox"]
            box = {"bbox": [x, y, x + w, y + h], "bbox_mode": BoxMode.XYXY_ABS}
            box["category_id"] = list(CLASSES).index(a["category_id"])
            if number % 2:
                box["segmentation"] = a["segmentation"]  # of the same area
            annotations.append(box)
        record = {k: image[k] for k in ("width", "height", "file_name")}
        records.append({**record, "image_id": image["id"], "annotations": annotations})
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).thing_classes = list(CLASSES.values())
    with pytest.raises(ValueError, match="output_dir"):
        COCOEvaluator(NAME)
    evaluator = COCOEvaluator(NAME, output_dir=str(tmp_path / "output"), allow_cached_coco=False)
    results = run(evaluator, coco.detections)["bbox"]
    expected = pycocotools(coco.path, as_results(coco.detections, list(CLASSES)))
    for name, value in zip(["AP", "AP50", "AP75", "APs", "APm"], expected.stats, strict=False):
        assert results[name] == pytest.approx(percent(value), abs=0.1)  # of rounded boxes


def with_ellipses(detections):
    """The same detections, each with a mask: the ellipse in its box."""
    y, x = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    for instances in detections.values():
        masks = []
        for x0, y0, x1, y1 in instances.pred_boxes.tensor.tolist():
            horizontal, vertical = (x * 2 - x0 - x1) / (x1 - x0), (y * 2 - y0 - y1) / (y1 - y0)
            masks.append(horizontal**2 + vertical**2 <= 1)
        instances.pred_masks = torch.stack(masks)
    return detections


def mask_results(detections, category_ids):
    """COCO's results of masks alone: no box, so that areas are those of the masks."""
    masks = [mask for instances in detections.values() for mask in instances.pred_masks.numpy()]
    results = as_results(detections, category_ids)
    for result, mask in zip(results, masks, strict=True):
        del result["bbox"]
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        result["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    return results


def test_coco_masks(coco, tmp_path):
    detections = with_ellipses(coco.detections)
    evaluator = COCOEvaluator(NAME, tasks=("bbox", "segm"), output_dir=str(tmp_path / "output"))
    results = run(evaluator, detections)
    of_masks = mask_results(detections, list(CLASSES))
    expected = pycocotools(coco.path, of_masks, task="segm")
    assert list(results) == ["bbox", "segm"]
    for name, value in zip(["AP", "AP50", "AP75", "APs", "APm"], expected.stats, strict=False):
        assert results["segm"][name] == pytest.approx(percent(value), abs=1e-3)
    assert 5 < results["segm"]["AP50"] < 95
    boxes = pycocotools(coco.path, as_results(detections, list(CLASSES)))
    assert results["bbox"]["AP"] == pytest.approx(percent(boxes.stats[0]), abs=1e-3)
    assert {f"AP-{name}" for name in CLASSES.values()} < results["segm"].keys()
    written = json.loads((tmp_path / "output" / "coco_instances_results.json").read_text())
    assert [d["segmentation"] for d in written] == [d["segmentation"] for d in of_masks]
    # Without tasks, what the detections have is evaluated.
    again = run(COCOEvaluator(NAME), detections)
    assert again["segm"]["AP"] == results["segm"]["AP"]


def test_lvis_masks(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    truth = make_truth(rng, lvis=True)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(truth))
    MetadataCatalog.get(NAME).json_file = str(path)
    detections = with_ellipses(make_detections(rng, truth))
    monkeypatch.setattr(np, "float", float, raising=False)
    results = run(LVISEvaluator(NAME, tasks=("bbox", "segm")), detections)
    lvis = LVIS(str(path))
    found = LVISResults(lvis, mask_results(detections, [1, 2, 3]))
    expected = LVISEval(lvis, found, "segm")
    expected.run()
    for name, value in results["segm"].items():
        assert value == pytest.approx(100 * expected.get_results()[name], abs=1e-3)
    assert 5 < results["segm"]["AP50"] < 95
    assert results["bbox"]["AP"] != results["segm"]["AP"]


@pytest.mark.parametrize("limit", [None, 4])
def test_lvis_metrics(tmp_path, monkeypatch, limit):
    rng = np.random.default_rng(1)
    truth = make_truth(rng, lvis=True)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(truth))
    MetadataCatalog.get(NAME).json_file = str(path)
    detections = make_detections(rng, truth)
    # lvis 0.5.3, the last release, uses np.float, which numpy 2 does not have.
    monkeypatch.setattr(np, "float", float, raising=False)
    evaluator = LVISEvaluator(NAME, output_dir=str(tmp_path / "out"), max_dets_per_image=limit)
    results = run(evaluator, detections)["bbox"]

    annotations = as_results(detections, [1, 2, 3])
    lvis = LVIS(str(path))
    expected = LVISEval(lvis, LVISResults(lvis, annotations, max_dets=limit or 300), "bbox")
    expected.run()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    assert list(results) == names
    for name in names:
        assert results[name] == pytest.approx(100 * expected.get_results()[name], abs=1e-3)
    assert 5 < results["APr"] < 95
    written = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    assert {d["category_id"] for d in written} == {1, 2}
    assert len(written) == len(annotations)
    assert (tmp_path / "out" / "instances_predictions.pth").exists()

    nothing = {image_id: instances[:0] for image_id, instances in detections.items()}
    results = run(LVISEvaluator(NAME), nothing)["bbox"]
    assert list(results) == names
    assert all(math.isnan(value) for value in results.values())
    assert run(LVISEvaluator(NAME), {}) == {}


def test_lvis_with_numpy_2(tmp_path):
    if "subset" not in detectron2.__version__:
        pytest.skip("only the stand-in works with numpy 2")
    rng = np.random.default_rng(1)
    truth = make_truth(rng, lvis=True)
    (tmp_path / "lvis.json").write_text(json.dumps(truth))
    MetadataCatalog.get(NAME).json_file = str(tmp_path / "lvis.json")
    assert run(LVISEvaluator(NAME), make_detections(rng, truth))["bbox"]["AP"] > 5
    assert not hasattr(np, "float")


class Sum(DatasetEvaluator):
    def __init__(self, name="sum"):
        self.name = name

    def reset(self):
        self.total = 0

    def process(self, inputs, outputs):
        self.total += sum(inputs) + sum(outputs)

    def evaluate(self):
        return {self.name: self.total}


class Double(nn.Module):
    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * x for x in inputs]


def test_inference_on_a_data_set():
    loader = [[1, 2], [3], [4]]
    model = Double().train()
    assert inference_on_dataset(model, loader, Sum()) == {"sum": 30}
    assert model.training
    assert inference_on_dataset(model.eval(), loader, [Sum("a"), Sum("b")]) == {"a": 30, "b": 30}
    assert not model.training
    assert inference_on_dataset(model, loader, None) == {}
    assert inference_on_dataset(lambda inputs: [0], loader, DatasetEvaluator()) == {}
    with pytest.raises(AssertionError, match="sum"):
        inference_on_dataset(model, loader, [Sum(), Sum()])


def test_evaluators_together():
    both = DatasetEvaluators([Sum("a"), Sum("b"), DatasetEvaluator()])
    for _ in range(2):
        both.reset()
        both.process([1], [2])
        assert both.evaluate() == {"a": 3, "b": 3}


def test_callbacks_of_inference():
    calls = []
    moments = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {moment: lambda moment=moment: calls.append(moment) for moment in moments}
    inference_on_dataset(lambda inputs: calls.append("model"), [1, 2], None, callbacks)
    step = ["before_inference", "model", "after_inference"]
    assert calls == ["on_start", *step, *step, "on_end"]


def test_results_are_printed_for_a_table():
    results = {"bbox": {"AP": 12.34567, "AP50": float("nan"), "AP-cat": 3.0}, "plain": 4}
    with TestCase().assertLogs("detectron2", "INFO") as logs:
        print_csv_format(results)
    assert [record.getMessage() for record in logs.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 12.3457,nan",
        "copypaste: plain=4",
    ]


@pytest.mark.parametrize(
    ("expected", "is_met"),
    [
        ([], True),
        ([["bbox", "AP", 12.0, 0.5]], True),
        ([["bbox", "AP", 13.0, 0.5]], False),
        ([["bbox", "AP", 12.0, 0.5], ["bbox", "APs", 1.0, 5.0]], False),
        ([["bbox", "APx", 1.0, 5.0]], False),
    ],
)
def test_expected_results(expected, is_met):
    cfg = SimpleNamespace(TEST=SimpleNamespace(EXPECTED_RESULTS=expected))
    results = {"bbox": {"AP": 12.25, "APs": float("nan")}}
    if is_met:
        assert verify_results(cfg, results) is True
    else:
        with pytest.raises(SystemExit) as exit_:
            verify_results(cfg, results)
        assert exit_.value.code == 1
