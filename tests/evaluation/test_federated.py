import json
import logging

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.federated import Federated
from detclip2.evaluation.worst_errors import errors_of
from detclip2.utils.errors import UserError
from tests.helpers import lvis_truth, toy_coco
from tests.helpers.lvis_package import by_the_package

NAME = "test_federated"


def register(path, num_classes):
    if NAME in MetadataCatalog:
        MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_classes=[f"thing {i}" for i in range(num_classes)],
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(num_classes)},
    )


def evaluate(found, folder):
    evaluator = toy_coco.feed(CheckedCOCOEvaluator(NAME, output_dir=str(folder)), found)
    return evaluator, evaluator.evaluate()["bbox"]


def as_results(found):
    return [
        {
            "image_id": image_id,
            "category_id": int(name) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for image_id, one in found.items()
        for (x1, y1, x2, y2), name, score in zip(
            one.pred_boxes.tensor.tolist(), one.pred_classes, one.scores, strict=True
        )
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_ap_of_federated_annotations_is_that_of_the_lvis_package(tmp_path, seed, caplog):
    path = lvis_truth.write_truth(tmp_path / "truth.json", seed=seed)
    found = lvis_truth.detect(path, seed=seed)
    reference = by_the_package(path, as_results(found), 1000)

    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    path.write_text(json.dumps(content))
    register(path, 7)
    with caplog.at_level(logging.INFO, "detclip2"):
        _, federated = evaluate(found, tmp_path / "out")
    assert any("federated" in line for line in caplog.messages)
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    path.write_text(json.dumps(content))
    _, naive = evaluate(found, tmp_path / "naive")
    assert 5 < federated["AP"] < 95
    assert naive["AP"] < federated["AP"] - 1
    for metric in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert federated[metric] == pytest.approx(reference[metric], abs=1e-6)


def test_unknown_names_are_no_false_positives():
    """Category 1 is known, 2 is unknown, 3 not exhaustive in image 1; all are known in image 2."""
    content = {
        "images": [
            {"id": 1, "neg_category_ids": [1], "not_exhaustive_category_ids": [3]},
            {"id": 2},
        ],
        "annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": i} for i in (1, 2, 3)],
    }
    federated = Federated(content)
    assert federated
    assert federated.known(1, [1, 2, 3, 2]).tolist() == [True, False, True, False]
    assert federated.known(2, [1, 2, 3]).all()
    assert federated.known(1, []).shape == (0,)
    assert [federated.is_partial(i, 3) for i in (1, 2)] == [True, False]
    assert federated.partial_images() == {3: {1}}
    stray = [{"bbox": [50, 50, 9, 9], "score": 0.5}]
    detections = [
        {**one, "image_id": i, "category_id": c} for i in (1, 2) for c in (1, 2, 3) for one in stray
    ]
    wrong = {e.image["id"]: [one["category_id"] for one in e.wrong]
             for e in errors_of(content, detections, 0.1)}  # fmt: skip
    assert wrong == {1: [1], 2: [1, 2, 3]}
    assert not Federated({**content, "images": [{"id": 1}, {"id": 2}]})


def test_a_set_in_which_nothing_is_known_has_no_ap(tmp_path):
    truth = toy_coco.content()
    for image in truth["images"]:
        image["neg_category_ids"] = []
    truth["annotations"] = truth["annotations"][:1]
    toy_coco.register(NAME, truth, tmp_path)
    found = toy_coco.detections(toy_coco.content())
    evaluator, results = evaluate(found, tmp_path / "out")
    box = truth["annotations"][0]
    used = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    pairs = {(one["image_id"], one["category_id"]) for one in used}
    assert pairs == {(box["image_id"], box["category_id"])}
    for identity, name in zip(toy_coco.IDS, toy_coco.NAMES, strict=True):
        assert np.isnan(results[f"AP-{name}"]) == (identity != box["category_id"])
    assert "federated" in str(evaluator.protocol)


@pytest.mark.parametrize("value", ["3", 3, {"3": 1}])
def test_lists_of_other_things_are_refused(value, tmp_path):
    content = toy_coco.content()
    content["images"][0]["neg_category_ids"] = value
    toy_coco.register(NAME, content, tmp_path)
    with pytest.raises(UserError, match=r"has 'neg_category_ids' .*; expected a list of ids"):
        evaluate(toy_coco.detections(toy_coco.content()), tmp_path / "out")
