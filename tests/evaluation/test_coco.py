import hashlib
import json
import logging
import math

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.coco_api import METRICS, average_precision
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers import toy_coco

NAME = "test_coco_evaluator"


@pytest.fixture
def truth(tmp_path):
    truth = toy_coco.content()
    toy_coco.register(NAME, truth, tmp_path)
    return truth


def by_pycocotools(truth, found, folder):
    """As in COCO's own example: from files to twelve numbers."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(toy_coco.as_results(found)))
    coco = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRICS, 100 * evaluation.stats[:6], strict=True))


def test_ap_equals_pycocotools(truth, tmp_path):
    found = toy_coco.detections(truth)
    evaluator = toy_coco.feed(CheckedCOCOEvaluator(NAME, output_dir=str(tmp_path / "out")), found)
    results = evaluator.evaluate()["bbox"]
    expected = by_pycocotools(truth, found, tmp_path)
    assert 5 < expected["AP"] < 95
    assert {name: results[name] for name in METRICS} == pytest.approx(expected)

    boxes = truth["annotations"]
    metrics, of_classes = average_precision(toy_coco.IDS, boxes, toy_coco.as_results(found))
    assert metrics == pytest.approx(expected)
    for identity, name in zip(toy_coco.IDS, toy_coco.NAMES, strict=True):
        assert of_classes[identity] == pytest.approx(results[f"AP-{name}"])


def test_the_protocol_is_one_line_and_in_the_json(truth, tmp_path, caplog):
    found = toy_coco.detections(truth)
    evaluator = CheckedCOCOEvaluator(NAME, output_dir=str(tmp_path / "out"), max_dets_per_image=50)
    evaluator.set_vocabulary_description(Vocabulary.from_names(toy_coco.NAMES).description)
    with caplog.at_level(logging.INFO, "detclip2"):
        results = toy_coco.feed(evaluator, found).evaluate()
    digest = hashlib.sha256((tmp_path / f"{NAME}.json").read_bytes()).hexdigest()
    (line,) = (line for line in caplog.messages if line.startswith("Protocol: "))
    for part in (NAME, digest[:8], "3 names", "the best 50 of an image", "standard AP"):
        assert part in line
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["bbox"]["AP"] == results["bbox"]["AP"]
    assert written["protocol"]["dataset"] == NAME
    assert written["protocol"]["prompts"] == "3 names (fish, crab, ...)"
    in_coco_format = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {d["category_id"] for d in in_coco_format} <= set(toy_coco.IDS)


def test_a_model_that_detects_nothing_has_an_ap_of_zero(truth, tmp_path):
    nothing = {i: instances[:0] for i, instances in toy_coco.detections(truth).items()}
    evaluator = toy_coco.feed(CheckedCOCOEvaluator(NAME, output_dir=str(tmp_path / "out")), nothing)
    results = evaluator.evaluate()["bbox"]
    assert [results[name] for name in ("AP", "AP50", "AP75")] == [0, 0, 0]


def test_detections_of_an_unknown_image_are_refused(truth):
    found = toy_coco.detections(truth)
    with pytest.raises(UserError, match=rf"image 99, which is not in .*{NAME}\.json"):
        toy_coco.feed(CheckedCOCOEvaluator(NAME), {99: found[1]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_and_boxes_must_be_numbers(truth, value):
    for field in ("scores", "pred_boxes"):
        found = toy_coco.detections(truth)
        tensor = found[2].scores if field == "scores" else found[2].pred_boxes.tensor
        tensor[0] = value
        with pytest.raises(UserError, match="of image 2 is not a finite number"):
            toy_coco.feed(CheckedCOCOEvaluator(NAME), found)


def test_an_evaluation_over_no_images_is_refused(truth, tmp_path):
    with pytest.raises(UserError, match="no image was evaluated"):
        toy_coco.feed(CheckedCOCOEvaluator(NAME, output_dir=str(tmp_path / "out")), {}).evaluate()
    assert not (tmp_path / "out" / "results.json").exists()
    toy_coco.register(NAME, {**truth, "images": [], "annotations": []}, tmp_path)
    with pytest.raises(UserError, match="no images"):
        CheckedCOCOEvaluator(NAME)


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox"])
def test_a_missing_key_is_named(truth, tmp_path, key):
    del truth["annotations"][2][key]
    toy_coco.register(NAME, truth, tmp_path)
    with pytest.raises(UserError, match=rf"{NAME}\.json: .* of 'annotations' has no key '{key}'"):
        CheckedCOCOEvaluator(NAME)


@pytest.mark.parametrize("value", [None, "text", "absent"])
def test_area_and_iscrowd_may_be_null_text_or_absent(truth, tmp_path, value):
    """The area is that of the box then, and no box is a crowd."""
    for one in truth["annotations"]:
        one.update(area=one["bbox"][2] * one["bbox"][3], iscrowd=0)
    found = toy_coco.detections(truth)
    expected = by_pycocotools(truth, found, tmp_path)
    for one in truth["annotations"]:
        if value == "absent":
            del one["area"], one["iscrowd"]
        else:
            one["area"] = value and str(one["area"])
            one["iscrowd"] = value and "0"
    toy_coco.register(NAME, truth, tmp_path)
    results = toy_coco.feed(CheckedCOCOEvaluator(NAME), found).evaluate()["bbox"]
    assert {name: results[name] for name in METRICS} == pytest.approx(expected)


@pytest.mark.parametrize("detected", [True, False])
def test_ap_is_undefined_if_all_boxes_are_crowds(truth, tmp_path, detected):
    for one in truth["annotations"]:
        one["iscrowd"] = "1"
    toy_coco.register(NAME, truth, tmp_path)
    found = toy_coco.detections(truth)
    if not detected:
        found = {image_id: instances[:0] for image_id, instances in found.items()}
    folder = tmp_path / "out"
    evaluator = toy_coco.feed(CheckedCOCOEvaluator(NAME, output_dir=str(folder)), found)
    assert math.isnan(evaluator.evaluate()["bbox"]["AP"])
    assert json.loads((folder / "results.json").read_text())["bbox"]["AP"] is None


def test_ids_as_text_are_those_of_detectron2s_own_reader(truth, tmp_path):
    """It keeps them as text, in records and in the metadata."""
    found = toy_coco.detections(truth)
    expected = by_pycocotools(truth, found, tmp_path)
    for part, keys in {"images": ["id"], "categories": ["id"],
                       "annotations": ["id", "image_id", "category_id"]}.items():  # fmt: skip
        for one in truth[part]:
            one.update({key: str(one[key]) for key in keys})
    toy_coco.register(NAME, truth, tmp_path)
    metadata = MetadataCatalog.get(NAME)
    del metadata.thing_dataset_id_to_contiguous_id
    metadata.set(
        thing_dataset_id_to_contiguous_id={str(key): i for i, key in enumerate(toy_coco.IDS)}
    )
    of_text = {str(image_id): instances for image_id, instances in found.items()}
    results = toy_coco.feed(CheckedCOCOEvaluator(NAME), of_text).evaluate()["bbox"]
    assert {name: results[name] for name in METRICS} == pytest.approx(expected)


def test_a_box_with_id_0_is_matched(truth, tmp_path):
    """COCOeval stores 0 for no match: a file with ids from 0 would lose one match."""
    truth["annotations"] = [
        {"id": 0, "image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500,
         "iscrowd": 0}
    ]  # fmt: skip
    toy_coco.register(NAME, truth, tmp_path)
    instances = Instances(
        (360, 360),
        pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]])),
        scores=torch.tensor([0.5]),
        pred_classes=torch.tensor([0]),
    )
    evaluator = toy_coco.feed(CheckedCOCOEvaluator(NAME), {1: instances})
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    found = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.5}]
    metrics, _ = average_precision(toy_coco.IDS, truth["annotations"], found)
    assert metrics["AP"] == pytest.approx(100)
