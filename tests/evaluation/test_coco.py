import hashlib
import json
import logging

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.coco_api import METRICS, average_precision, coco_of
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

    index = coco_of(truth["images"], toy_coco.as_results(found), truth["categories"])
    whole = coco_of(truth["images"], truth["annotations"], truth["categories"])
    metrics, of_classes = average_precision(whole, index)
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


@pytest.mark.parametrize("key", ["area", "iscrowd", "image_id"])
def test_a_missing_key_is_named(truth, tmp_path, key):
    del truth["annotations"][2][key]
    toy_coco.register(NAME, truth, tmp_path)
    with pytest.raises(UserError, match=rf"{NAME}\.json: id 3 of 'annotations' has no key '{key}'"):
        CheckedCOCOEvaluator(NAME)


def test_a_box_with_id_0_is_reported_and_matched_by_our_index(truth, tmp_path, caplog):
    """COCOeval stores 0 for no match: a file with ids from 0 loses one match."""
    truth["annotations"] = [
        {"id": 0, "image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500,
         "iscrowd": 0}
    ]  # fmt: skip
    toy_coco.register(NAME, truth, tmp_path)
    CheckedCOCOEvaluator(NAME)
    assert "number annotations from 1" in caplog.text
    found = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.5}]
    parts = (truth["images"], truth["categories"])
    index = [coco_of(parts[0], boxes, parts[1]) for boxes in (truth["annotations"], found)]
    assert average_precision(*index)[0]["AP"] == pytest.approx(100)
