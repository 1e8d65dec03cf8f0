"""AP of masks by COCO's and LVIS's protocols, against pycocotools and the lvis package."""

import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.coco_api import METRICS
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.mask_file import MaskFile
from detclip2.utils.errors import UserError
from tests.helpers import lvis_truth, toy_coco
from tests.helpers.lvis_package import by_the_package
from tests.helpers.masks import annotated, results_of, rle, with_masks
from tests.helpers.processes import run_processes

NAME = "test_mask_evaluation"
BOTH = ["bbox", "segm"]


@pytest.fixture(autouse=True)
def _clean():
    yield
    MetadataCatalog.pop(NAME, None)


@pytest.fixture
def coco_json(tmp_path):
    return toy_coco.register(NAME, toy_coco.content(), tmp_path)


def by_pycocotools(path, results):
    coco = COCO(str(path))
    evaluation = COCOeval(coco, coco.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRICS, 100 * evaluation.stats[:6], strict=True))


def test_ap_of_masks_stands_next_to_that_of_boxes(coco_json, tmp_path):
    """Masks as polygons, RLE and runs; a crowd among them."""
    truth = annotated(coco_json)
    found = with_masks(toy_coco.detections(truth))
    evaluator = CheckedCOCOEvaluator(NAME, BOTH, output_dir=str(tmp_path / "out"))
    results = toy_coco.feed(evaluator, found).evaluate()
    expected = by_pycocotools(coco_json, results_of(found, toy_coco.IDS))
    assert {name: results["segm"][name] for name in METRICS} == pytest.approx(expected)
    assert 5 < expected["AP"] < 95
    boxes = toy_coco.feed(CheckedCOCOEvaluator(NAME), found).evaluate()
    assert boxes.keys() == {"bbox"}
    assert boxes["bbox"] == pytest.approx(results["bbox"])
    assert results["bbox"]["AP"] != results["segm"]["AP"]
    assert "of boxes and masks" in str(evaluator.protocol)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["segm"]["AP"] == results["segm"]["AP"]
    entries = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert entries[0]["segmentation"]["size"] == [360, 360]


def test_boxes_alone_need_no_masks(coco_json):
    found = with_masks(toy_coco.detections(toy_coco.content()))
    results = toy_coco.feed(CheckedCOCOEvaluator(NAME), found).evaluate()
    assert results.keys() == {"bbox"}
    with pytest.raises(UserError, match=r"the mask of annotation 1 cannot be read.*tasks"):
        CheckedCOCOEvaluator(NAME, BOTH)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ([], "no polygon of 3 points"),
        ([[1, 1, 9, 9]], "no polygon of 3 points"),
        ({"size": [360, 361], "counts": [360 * 361]}, "an RLE of size"),
        ({"size": [360, 360], "counts": [5]}, "do not fill"),
    ],
)
def test_an_object_whose_mask_cannot_be_read_is_refused(coco_json, segmentation, problem):
    """Skipped, its detections would count as false."""
    content = annotated(coco_json)
    content["annotations"][4]["segmentation"] = segmentation
    coco_json.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"annotation 5 cannot be read: .*{problem}"):
        CheckedCOCOEvaluator(NAME, BOTH)
    CheckedCOCOEvaluator(NAME)


def test_a_crowd_without_a_mask_is_its_box(coco_json):
    content = annotated(coco_json)
    crowd = next(one for one in content["annotations"] if one["iscrowd"])
    del crowd["segmentation"]
    coco_json.write_text(json.dumps(content))
    found = with_masks(toy_coco.detections(content))
    results = toy_coco.feed(CheckedCOCOEvaluator(NAME, BOTH), found).evaluate()
    x, y, w, h = crowd["bbox"]
    crowd["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    coco_json.write_text(json.dumps(content))
    expected = by_pycocotools(coco_json, results_of(found, toy_coco.IDS))
    assert results["segm"]["AP"] == pytest.approx(expected["AP"])


def test_a_model_without_masks_and_one_that_finds_nothing(coco_json):
    truth = annotated(coco_json)
    evaluator = CheckedCOCOEvaluator(NAME, BOTH)
    with pytest.raises(UserError, match="the model gives none: set mask_head"):
        toy_coco.feed(evaluator, toy_coco.detections(truth))
    found = {i: one[:0] for i, one in with_masks(toy_coco.detections(truth)).items()}
    results = toy_coco.feed(evaluator, found).evaluate()
    assert results["segm"]["AP"] == results["bbox"]["AP"] == 0


# LVIS


@pytest.fixture
def lvis_json(tmp_path):
    path = lvis_truth.write_truth(tmp_path / "truth.json")
    lvis_truth.register(NAME, path)
    return path


def best_of_classes(results, limit):
    kept = []
    for category_id in sorted({one["category_id"] for one in results}):
        of_class = [one for one in results if one["category_id"] == category_id]
        kept += sorted(of_class, key=lambda one: -one["score"])[:limit]
    return kept


def test_lvis_ap_of_masks(lvis_json, tmp_path):
    annotated(lvis_json)
    found = with_masks(lvis_truth.detect(lvis_json))
    evaluator = LVISFixedAPEvaluator(
        NAME, BOTH, output_dir=str(tmp_path / "out"), max_dets_per_image=20, max_dets_per_class=15
    )
    results = lvis_truth.feed(evaluator, found, batch_size=3).evaluate()
    assert list(results) == ["bbox", "bbox_fixed", "segm", "segm_fixed"]
    of_masks = results_of(found, range(1, 8))
    standard = by_the_package(lvis_json, of_masks, 20, "segm")
    assert results["segm"] == pytest.approx(standard, nan_ok=True)
    fixed = by_the_package(lvis_json, best_of_classes(of_masks, 15), -1, "segm")
    assert results["segm_fixed"] == pytest.approx(fixed, nan_ok=True)
    assert 5 < standard["AP"] < 95
    assert standard["AP"] != fixed["AP"]
    boxes = LVISFixedAPEvaluator(NAME, max_dets_per_image=20, max_dets_per_class=15)
    alone = lvis_truth.feed(boxes, found).evaluate()
    assert alone["bbox_fixed"] == pytest.approx(results["bbox_fixed"], nan_ok=True)
    entries = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    asked = {(one["image_id"], round(one["score"], 6)): one["segmentation"] for one in of_masks}
    for entry in entries:
        assert entry["segmentation"] == asked[entry["image_id"], round(entry["score"], 6)]
    assert not list((tmp_path / "out").glob(".masks*"))


def test_lvis_refuses_what_it_cannot_measure(lvis_json):
    with pytest.raises(UserError, match="the model gives none"):
        lvis_truth.feed(LVISFixedAPEvaluator(NAME, BOTH), lvis_truth.detect(lvis_json))
    with pytest.raises(UserError, match=r"not \['segm'\]"):
        LVISFixedAPEvaluator(NAME, ["segm"])
    content = json.loads(lvis_json.read_text())
    content["annotations"][2]["segmentation"] = [[1, 1, 5, 5]]
    lvis_json.write_text(json.dumps(content))
    with pytest.raises(UserError, match="the mask of annotation 3 cannot be read"):
        LVISFixedAPEvaluator(NAME, BOTH)


def test_masks_are_read_back_from_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    masks = rng.random((5, 30, 20)) > 0.6
    for folder in (None, tmp_path / "new"):
        file = MaskFile(folder)
        places = [*file.add(masks[:2]), *file.add(masks[2:])]
        file.share()
        for place, mask in zip(places, masks, strict=True):
            read = file.read(int(place))
            assert {**read, "counts": read["counts"].decode()} == rle(mask)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="masks cannot be written here"):
        MaskFile(tmp_path / "file")


def evaluate_share(rank, world_size, lvis_json, folder):
    lvis_truth.register(NAME, lvis_json)
    found = with_masks(lvis_truth.detect(lvis_json))
    own = dict(list(found.items())[rank::world_size])
    evaluator = LVISFixedAPEvaluator(NAME, BOTH, output_dir=folder)
    return {"results": json.dumps(lvis_truth.feed(evaluator, own).evaluate())}


@pytest.mark.processes
def test_two_processes_measure_the_same(lvis_json, tmp_path):
    annotated(lvis_json)
    alone = evaluate_share(0, 1, str(lvis_json), str(tmp_path / "1"))
    first, other = run_processes(evaluate_share, 2, str(lvis_json), str(tmp_path / "2"))
    assert first == alone
    assert other == {"results": "null"}
    assert not list((tmp_path / "2").glob(".*"))
