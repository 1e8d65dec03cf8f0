"""Annotations as tools write them: every reader reads them right, reports them or refuses them.

One table (`tests.helpers.damaged_annotations`) for all readers: fine-tuning, training (and
show-data, which draws its samples), the four evaluators, and vocabularies. A file that is read
right gives the boxes of the clean file, and to evaluators a detector that finds these is perfect.
"""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import ExifTags, Image

from detclip2.data.datasets.detection import detection_records, names_of_json, register_detection
from detclip2.data.io.image_files import image_problem
from detclip2.data.mappers import DetectionMapper, draw_sample
from detclip2.data.skips import SkipCounter
from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
from detclip2.finetuning.coco_check import read_own_data
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError
from tests.helpers import toy_coco
from tests.helpers.damaged_annotations import BOXES, CASES, IMAGES, clean, each
from tests.helpers.own_data import HEIGHT, WIDTH, own_content, write_own_data

NAME = "test_damaged_annotations"
# The evaluator, and its metrics that are 100 for a perfect detector.
EVALUATORS = {
    "coco": (CheckedCOCOEvaluator, [("bbox", "AP")]),
    "lvis": (LVISFixedAPEvaluator, [("bbox", "AP"), ("bbox_fixed", "AP")]),
    "recall": (AverageRecallEvaluator, [("box_recall", "AR@100")]),
    "names": (NameAccuracyEvaluator, [("names", "accuracy")]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The images, also in a folder of their own."""
    folder = tmp_path_factory.mktemp("damaged")
    for part in (folder, folder / "folder"):
        write_own_data(part, clean())
    return folder


@pytest.fixture(params=CASES)
def case(request, folder):
    """A case and its file, which is registered for training and evaluation, with its counter."""
    case, content = CASES[request.param], clean()
    written = case.change(content)
    path = folder / "damaged.json"
    path.write_bytes(written if isinstance(written, bytes) else json.dumps(content).encode())
    counter = SkipCounter()
    register_detection(NAME, str(path), str(folder), counter=counter)
    return case, path, counter


def objects(lost):
    """File -> the boxes and classes of the clean file."""
    found = {f"{i}.png": [] for i in range(1, IMAGES + 1)}
    for number, one in enumerate(clean()["annotations"]):
        if number not in lost:
            found[f"{one['image_id']}.png"].append((tuple(one["bbox"]), one["category_id"] - 1))
    return found


def rounded(found):
    """Boxes with their file and class, in an order."""
    return sorted(
        (name, index, *(round(v, 3) for v in box))
        for name, boxes in found.items()
        for box, index in boxes
    )


def base_name(path):
    return str(path).rpartition("/")[2]


def refused(function, sentence, path):
    with pytest.raises(UserError, match=sentence) as error:
        function()
    assert str(path) in str(error.value)


def test_finetuning(case, folder):
    case, path, _ = case
    if isinstance(case.finetuning, str):
        refused(lambda: read_own_data(path, folder), case.finetuning, path)
        return
    data = read_own_data(path, folder)
    ignored = {"key-unknown", "category-alone", "category-empty", "image-empty"}
    counts = {kind: len(where) for kind, where in data.findings.items() if kind not in ignored}
    assert counts == case.finetuning
    files = {image["id"]: base_name(image["file_name"]) for image in data.images}
    found = {name: [] for name in files.values()}
    for one in data.annotations:
        if not one["iscrowd"]:
            index = one["category_id"] + (len(data.names) == 1)
            found[files[one["image_id"]]].append((tuple(one["bbox"]), index))
    expected = objects(case.lost)
    assert rounded(found) == rounded({name: expected[name] for name in found})
    text = json.dumps(data.to_coco(data.names), allow_nan=False)
    assert json.loads(text)["images"]


def test_training(case):
    case, path, counter = case
    if isinstance(case.training, str):
        refused(lambda: detection_records(NAME), case.training, path)
        return
    records = detection_records(NAME)
    mapper = DetectionMapper(names_of_json(str(path)))
    found = {}
    for record in records:
        sample = draw_sample(records, records.index(record), mapper, np.random.default_rng(0))
        if sample is not None:
            boxes = sample["instances"].gt_boxes.tensor.tolist()
            phrases = [sample["phrases"][i] for i in sample["instances"].gt_classes.tolist()]
            found[base_name(record["file_name"])] = [
                ((x1, y1, x2 - x1, y2 - y1), mapper.names.index(phrase) + (len(mapper.names) == 1))
                for (x1, y1, x2, y2), phrase in zip(boxes, phrases, strict=True)
            ]
    counts = counter.counts()
    for kind, number in mapper.counter.counts().items():
        counts[kind] = counts.get(kind, 0) + number
    assert counts == case.training
    lost = case.lost if case.lost_in_training is None else case.lost_in_training
    expected = {name: boxes for name, boxes in objects(lost).items() if name in found}
    assert rounded(found) == rounded(expected)
    assert sum(map(len, found.values())) == BOXES - len(lost)


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluators(case, name):
    case, path, _ = case
    make, metrics = EVALUATORS[name]
    sentence = case.evaluation or (name == "lvis" and case.lvis)
    if sentence:
        if not isinstance(case.training, str):
            detection_records(NAME)
        refused(lambda: make(NAME), sentence, path)
        return
    records = detection_records(NAME)
    problem = image_problem(records)
    assert case.images in problem if case.images else not problem
    found = objects(case.lost)
    detections = {}
    for record in records:
        boxes = found.get(base_name(record["file_name"]), [])
        corners = [(x, y, x + w, y + h) for (x, y, w, h), _ in boxes]
        detections[record["image_id"]] = Instances(
            (HEIGHT, WIDTH),
            pred_boxes=Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.full((len(boxes),), 0.9),
            pred_classes=torch.tensor([index for _, index in boxes], dtype=torch.int64),
        )
    if case.images:  # its name is not known or its size wrong
        return
    results = toy_coco.feed(make(NAME), detections).evaluate()
    for part, metric in metrics:
        assert results[part][metric] == pytest.approx(100)


def test_names(case):
    case, path, _ = case
    if isinstance(case.training, str):
        return
    names = [str(one["name"]).lower() for one in json.loads(path.read_bytes())["categories"] if one]
    expected = ["" if name == "none" else name for name in names]
    assert names_of_json(str(path)) == expected
    if all(expected):
        assert list(Vocabulary.of_dataset(NAME).labels) == expected


def damaged_image(folder, change):
    content = own_content(2)
    path = write_own_data(folder, content)
    change(folder / "1.png", content)
    path.write_text(json.dumps(content))
    register_detection(NAME, str(path), str(folder))
    return path, detection_records(NAME)


def cut(path, content):
    path.write_bytes(path.read_bytes()[:-30])


def cut_jpeg(path, content):
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(".jpg"))
    cut(path.with_suffix(".jpg"), content)
    content["images"][0]["file_name"] = "1.jpg"


def turned(path, content):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(path).save(path, exif=exif)


def missing(path, content):
    path.unlink()


@pytest.mark.parametrize(
    ("change", "finding", "skip", "sentence"),
    [
        (cut, "image-damaged", "image-unreadable", "1.png: this image is truncated"),
        (cut_jpeg, "image-damaged", "image-unreadable", "1.jpg: this image is truncated"),
        (turned, "image-rotated", "image-mismatched", "before its EXIF orientation"),
    ],
)
def test_images(tmp_path, change, finding, skip, sentence):
    """A damaged image is found before a training or an evaluation starts."""
    path, records = damaged_image(tmp_path / "data", change)
    data = read_own_data(path, path.parent)
    assert len(data.findings[finding]) == 1
    assert len(data.images) == 1
    mapper = DetectionMapper(["red square", "blue square"])
    assert draw_sample(records, 0, mapper, np.random.default_rng(0)) is None
    assert mapper.counter.counts() == {skip: 1}
    problem = image_problem(records)
    assert "1 of 2 images" in problem
    assert sentence in problem


def test_missing_images_are_found_before_an_evaluation(tmp_path):
    _, records = damaged_image(tmp_path / "data", missing)
    assert "1.png: this image does not exist" in image_problem(records)
    assert image_problem([{**one, "image": np.zeros((9, 9, 3), np.uint8)} for one in records]) == ""


@pytest.mark.parametrize("flag", ["1", True])
def test_nothing_to_find_has_no_result(folder, flag):
    """A score of 0 would say that a model fails, though there is nothing to find."""
    content = clean()
    each("annotations", iscrowd=flag)(content)
    path = folder / "crowds.json"
    path.write_text(json.dumps(content))
    register_detection(NAME, str(path), str(folder))
    records = detection_records(NAME)
    data = read_own_data(path, folder)
    assert len(data.findings["box-crowd"]) == BOXES
    assert "box-all-crowds" in data.findings
    empty = Instances(
        (HEIGHT, WIDTH), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0),
        pred_classes=torch.zeros(0, dtype=torch.int64),
    )  # fmt: skip
    for make, metrics in EVALUATORS.values():
        results = toy_coco.feed(make(NAME), {one["image_id"]: empty for one in records}).evaluate()
        assert all(math.isnan(results[part][metric]) for part, metric in metrics), make
