"""Standard and Fixed AP against Detectron2's evaluator and the lvis package."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2 import evaluation
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from detclip2.data.emojiscenes import EmojiScenes, register_emoji_validation
from detclip2.evaluation.lvis import FIXED, STANDARD, LVISFixedAPEvaluator, _class_positions
from detclip2.utils.errors import UserError
from tests.helpers.lvis_package import METRICS, by_the_package, numpy_with_float
from tests.helpers.lvis_truth import detect, feed, register, write_truth
from tests.helpers.processes import run_processes

NAME = "test_lvis_evaluator"
GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _clean():
    yield
    MetadataCatalog.pop(NAME, None)


@pytest.fixture
def truth(tmp_path):
    json_file = write_truth(tmp_path / "truth.json")
    register(NAME, json_file)
    return json_file


def entries(found):
    """The detections in LVIS's format of results, in the given order."""
    return [
        {
            "image_id": image_id,
            "category_id": int(category) + 1,
            "bbox": [x1, y1, *(torch.tensor([x2, y2]) - torch.tensor([x1, y1])).tolist()],
            "score": score,
        }
        for image_id, instances in found.items()
        for (x1, y1, x2, y2), category, score in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.pred_classes,
            instances.scores.tolist(),
            strict=True,
        )
    ]


def cut_by_class(results, limit):
    """The choice of the Fixed protocol, with Python lists."""
    kept = []
    for category_id in sorted({result["category_id"] for result in results}):
        of_class = [result for result in results if result["category_id"] == category_id]
        of_class.sort(key=lambda r: (-r["score"], r["image_id"], r["bbox"]))
        kept += of_class[:limit]
    return kept


def same(ours, theirs):
    """But for rounding: the package divides by a sum with a tiny number added."""
    assert ours.keys() == theirs.keys() == set(METRICS)
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("limits", [(300, 10_000), (10, 25), (1, 1)])
def test_both_protocols_equal_the_lvis_package(truth, limits):
    per_image, per_class = limits
    found = detect(truth)
    evaluator = LVISFixedAPEvaluator(
        NAME, max_dets_per_image=per_image, max_dets_per_class=per_class, distributed=False
    )
    measured = feed(evaluator, found).evaluate()
    same(measured[STANDARD], by_the_package(truth, entries(found), per_image))
    same(measured[FIXED], by_the_package(truth, cut_by_class(entries(found), per_class), -1))
    assert 0 < measured[STANDARD]["AP"] < 99
    if limits == (300, 10_000):  # no detection is dropped
        assert measured[STANDARD] == measured[FIXED]
    else:
        assert measured[STANDARD] != measured[FIXED]


def test_standard_ap_equals_detectron2s_evaluator(truth, tmp_path):
    found = detect(truth)
    theirs = evaluation.LVISEvaluator(NAME, tasks=["bbox"], distributed=False)
    with numpy_with_float():
        expected = feed(theirs, found).evaluate()["bbox"]
    ours = feed(LVISFixedAPEvaluator(NAME, tasks=["bbox"], distributed=False), found).evaluate()[
        "bbox"
    ]
    same(ours, expected)


@pytest.mark.slow
def test_real_annotations(test_data):
    json_file = test_data / "lvis" / "lvis_v0.5_val_100.json"
    register(NAME, json_file)
    found = detect(json_file, per_image=60)
    evaluator = LVISFixedAPEvaluator(
        NAME, max_dets_per_image=20, max_dets_per_class=3, distributed=False
    )
    measured = feed(evaluator, found).evaluate()
    same(measured[STANDARD], by_the_package(json_file, entries(found), 20))
    same(measured[FIXED], by_the_package(json_file, cut_by_class(entries(found), 3), -1))
    assert 5 < measured[FIXED]["APr"] < 99


def test_fixed_ap_keeps_boxes_displaced_by_other_classes(truth):
    """A true box below 300 better ones of another class counts in Fixed AP, not in standard AP."""
    content = json.loads(truth.read_text())
    annotation = content["annotations"][0]
    content["annotations"] = [annotation]
    for image in content["images"]:
        image["neg_category_ids"] = []
    truth.write_text(json.dumps(content))
    instances = detect(truth, per_image=301)[annotation["image_id"]]
    x, y, width, height = annotation["bbox"]
    instances.pred_boxes.tensor[0] = torch.tensor([x, y, x + width, y + height])
    instances.pred_classes[:] = annotation["category_id"] % 7
    instances.pred_classes[0] = annotation["category_id"] - 1
    instances.scores[:] = 0.9
    instances.scores[0] = 0.1
    measured = feed(LVISFixedAPEvaluator(NAME), {annotation["image_id"]: instances}).evaluate()
    assert measured[STANDARD]["AP"] == 0
    assert measured[FIXED]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_order_of_images_and_batches_do_not_matter(truth, tmp_path, batch_size):
    """Scores are tied within and across images, and both protocols truncate among ties."""
    found = detect(truth, scores=[0.25, 0.5, 0.75])
    limits = {"max_dets_per_image": 15, "max_dets_per_class": 20}

    def evaluate(found, folder, batch_size):
        evaluator = LVISFixedAPEvaluator(NAME, output_dir=str(tmp_path / folder), **limits)
        results = feed(evaluator, found, batch_size).evaluate()
        files = {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()}
        return str(results), files

    first = evaluate(found, "first", 1)
    ids = list(found)
    np.random.default_rng(1).shuffle(ids)
    other = {}
    for image_id in ids:  # detections of an image in another order too
        instances = found[image_id]
        other[image_id] = instances[torch.randperm(len(instances), generator=GENERATOR)]
    assert list(other) != list(found)
    assert evaluate(other, "other", batch_size) == first


def evaluate_share(rank, world_size, json_file, folder):
    """The work of a process: every world_size-th image, in a sampler's order."""
    register(NAME, json_file)
    found = detect(json_file, scores=[0.25, 0.5, 0.75])
    share = dict(list(found.items())[rank::world_size])
    evaluator = LVISFixedAPEvaluator(
        NAME, output_dir=folder, max_dets_per_image=15, max_dets_per_class=20
    )
    results = feed(evaluator, share).evaluate()
    return {"results": repr(results)}


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.processes
def test_the_number_of_processes_does_not_matter(truth, tmp_path, world_size):
    """Equal to the last digit, in numbers and files; with ties, truncated twice."""
    alone = evaluate_share(0, 1, truth, str(tmp_path / "1"))
    folder = tmp_path / str(world_size)
    first, *others = run_processes(evaluate_share, world_size, truth, str(folder))
    assert first == alone
    assert all(other == {"results": "None"} for other in others)
    for path in folder.iterdir():  # hidden files too: the files exchanged by processes are removed
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()
    assert len(list(folder.iterdir())) == 3


def test_files_can_be_given_to_the_package(truth, tmp_path):
    found = detect(truth)
    evaluator = LVISFixedAPEvaluator(
        NAME, output_dir=str(tmp_path), max_dets_per_image=10, max_dets_per_class=25
    )
    measured = feed(evaluator, found).evaluate()
    standard = json.loads((tmp_path / "lvis_instances_results.json").read_text())
    fixed = json.loads((tmp_path / "lvis_fixed_ap_instances_results.json").read_text())
    assert standard[0].keys() == {"image_id", "category_id", "bbox", "score"}
    same(measured[STANDARD], by_the_package(truth, standard, 300))
    same(measured[FIXED], by_the_package(truth, fixed, -1))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written[FIXED]["AP"] == measured[FIXED]["AP"]
    assert "truth.json" in written["protocol"]["annotations"]


def test_the_protocol_is_one_line(truth, caplog):
    with caplog.at_level("INFO", "detclip2"):
        evaluator = LVISFixedAPEvaluator(NAME, max_dets_per_class=50)
        evaluator.set_vocabulary_description("7 names, with definitions")
        feed(evaluator, detect(truth, per_image=7)).evaluate()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Protocol")]
    (line,) = lines
    assert "\n" not in line
    for word in (
        NAME,
        "truth.json",
        "7 names, with definitions",
        "300 an image",
        "50 a class",
        "up to 7 an image",
    ):
        assert word in line


@pytest.fixture(scope="module")
def emoji_records(tmp_path_factory):
    """Twelve scenes with 30 categories; category ids are LVIS's."""
    scenes = EmojiScenes(30, "val", count=12, size=96)
    json_file = register_emoji_validation(
        "test_lvis_emoji", scenes, tmp_path_factory.mktemp("scenes")
    )
    yield json.loads(json_file.read_text())
    MetadataCatalog.pop("test_lvis_emoji", None)


def test_the_truth_scores_100(emoji_records):
    evaluator = LVISFixedAPEvaluator("test_lvis_emoji")
    for image in emoji_records["images"]:
        truth = [a for a in emoji_records["annotations"] if a["image_id"] == image["id"]]
        instances = detect_exactly(truth)
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    for results in evaluator.evaluate().values():
        assert [results[n] for n in ("AP", "APr", "APc", "APf")] == pytest.approx([100] * 4)


def detect_exactly(annotations):
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        (96, 96),
        pred_boxes=Boxes(boxes),
        scores=torch.ones(len(boxes)),
        pred_classes=torch.tensor([a["category_id"] - 1 for a in annotations], dtype=torch.int64),
    )


def test_no_detections_score_0(truth, tmp_path):
    nothing = {i: instances[:0] for i, instances in detect(truth).items()}
    measured = feed(
        LVISFixedAPEvaluator(NAME, output_dir=str(tmp_path / "out")), nothing
    ).evaluate()
    for results in measured.values():
        assert results["AP"] == results["APr"] == results["APf"] == 0
    assert json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text()) == []


def test_ap_without_boxes_is_nan(truth):
    content = json.loads(truth.read_text())
    for category in content["categories"]:
        category["frequency"] = "f"
    truth.write_text(json.dumps(content))
    measured = feed(LVISFixedAPEvaluator(NAME), detect(truth)).evaluate()
    assert math.isnan(measured[STANDARD]["APr"])
    assert measured[STANDARD]["APf"] == measured[STANDARD]["AP"]


def test_category_ids_can_have_gaps(truth):
    """The metadata then map ids to classes."""
    found = detect(truth)
    expected = feed(LVISFixedAPEvaluator(NAME), found).evaluate()
    content = json.loads(truth.read_text())
    for entry in content["categories"]:
        entry["id"] *= 10
    for entry in content["annotations"]:
        entry["category_id"] *= 10
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [10 * i for i in image[key]]
    truth.write_text(json.dumps(content))
    MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id = {
        10 * i: i - 1 for i in range(1, 8)
    }
    assert feed(LVISFixedAPEvaluator(NAME), found).evaluate() == expected


def test_an_annotation_can_have_the_id_0(truth):
    """The package treats it as "not found"."""
    found = detect(truth)
    expected = feed(LVISFixedAPEvaluator(NAME), found).evaluate()
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        annotation["id"] -= 1
    truth.write_text(json.dumps(content))
    assert feed(LVISFixedAPEvaluator(NAME), found).evaluate() == expected


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("images", None),
        ("annotations", None),
        ("categories", None),
        ("images", "id"),
        ("images", "neg_category_ids"),
        ("images", "not_exhaustive_category_ids"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("annotations", "area"),
        ("categories", "id"),
        ("categories", "frequency"),
    ],
)
def test_a_missing_key_is_named(truth, part, key):
    content = json.loads(truth.read_text())
    if key is None:
        del content[part]
    else:
        del content[part][1][key]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match=repr(key or part)) as error:
        LVISFixedAPEvaluator(NAME)
    assert str(truth) in str(error.value)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"images": 3}'])
def test_another_file_is_refused(truth, text):
    truth.write_text(text)
    with pytest.raises(UserError, match=str(truth)):
        LVISFixedAPEvaluator(NAME)


def test_a_file_without_images_is_refused(truth):
    content = json.loads(truth.read_text())
    truth.write_text(json.dumps({**content, "images": []}))
    with pytest.raises(UserError, match="no images"):
        LVISFixedAPEvaluator(NAME)


def test_a_missing_file_is_named(truth):
    truth.unlink()
    with pytest.raises(UserError, match=str(truth)):
        LVISFixedAPEvaluator(NAME)


def test_an_unregistered_data_set_is_refused():
    with pytest.raises(UserError, match="not_registered"):
        LVISFixedAPEvaluator("not_registered")
    MetadataCatalog.pop("not_registered", None)


def test_an_unknown_image_is_refused(truth):
    (instances, *_) = detect(truth).values()
    with pytest.raises(UserError, match="image 7"):
        feed(LVISFixedAPEvaluator(NAME), {7: instances})


@pytest.mark.parametrize("what", ["score", "box"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_refused(truth, what, value):
    found = detect(truth)
    instances = found[105]
    (instances.scores if what == "score" else instances.pred_boxes.tensor[:, 0])[3] = value
    with pytest.raises(UserError, match=f"{what} .*image 105|image 105.* {what}"):
        feed(LVISFixedAPEvaluator(NAME), found)


@pytest.mark.parametrize("category", [-1, 7, 5000])
def test_a_class_without_category_is_refused(truth, category):
    found = detect(truth)
    found[105].pred_classes[2] = category
    with pytest.raises(UserError, match=f"class {category}"):
        feed(LVISFixedAPEvaluator(NAME), found)


def test_no_images_are_refused(truth, tmp_path):
    with pytest.raises(UserError, match="no image"):
        feed(LVISFixedAPEvaluator(NAME, output_dir=str(tmp_path / "out")), {}).evaluate()
    assert not (tmp_path / "out").exists()


def test_a_repeated_image_counts_once(truth):
    evaluator = LVISFixedAPEvaluator(NAME)
    for image_id, instances in [*detect(truth).items()] * 2:
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    with pytest.raises(UserError, match="2 times"):
        evaluator.evaluate()


def test_skipped_images_count_as_missed(truth, caplog):
    found = detect(truth)
    whole = feed(LVISFixedAPEvaluator(NAME), found).evaluate()
    some = dict(list(found.items())[:4])
    part = feed(LVISFixedAPEvaluator(NAME), some).evaluate()
    assert part[FIXED]["AP"] < whole[FIXED]["AP"]
    assert "8 of the 12 images" in caplog.text


def test_a_class_without_a_category_in_the_json_has_no_position():
    registered = {"thing_dataset_id_to_contiguous_id": {11: 0, 12: 1, 13: 2}}
    positions = _class_positions(registered, SimpleNamespace(category_ids=[11, 13]))
    assert positions.tolist() == [0, -1, 1]
