"""Damaged annotations in COCO's and LVIS's format, for every reader of them."""

import copy
from collections import Counter
from functools import partial

import pytest
from hypothesis import given

from detclip2.data.datasets.captions import coco_caption_records, karpathy_records
from detclip2.data.datasets.detection import load_detection_json, names_of_json
from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.datasets.odinw import OdinwSet, read_odinw
from detclip2.data.datasets.vqa import vqa_records
from detclip2.data.io.coco_json import POLICIES, read_coco_json, read_json
from detclip2.data.io.coco_parser import parse_coco
from detclip2.data.mappers import (
    CaptioningMapper,
    CaptionMapper,
    DetectionMapper,
    GroundingMapper,
    QuestionMapper,
)
from detclip2.data.skips import SkipCounter
from detclip2.evaluation.lvis_ap import read_lvis_json
from detclip2.finetuning.coco_check import FINDINGS, read_own_data
from tests.helpers.damage import json_files, not_finite
from tests.helpers.fuzzing import check_samples, result_of, rewrite

pytestmark = pytest.mark.slow  # 2,000 files a test

COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 8, "height": 8},
        {"id": 2, "file_name": "b.png", "width": 8, "height": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0,
         "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 2, 5, 6], "area": 30, "iscrowd": 0,
         "segmentation": {"size": [8, 8], "counts": [9, 5, 50]}},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [2, 2, 4, 3], "area": 12, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
}  # fmt: skip
LVIS = copy.deepcopy(COCO)
for image in LVIS["images"]:
    image.update(
        neg_category_ids=[2], not_exhaustive_category_ids=[1], coco_url=f"http://x/y/{image['id']}"
    )
LVIS["images"][0]["coco_url"] = "http://x/./a.png"
for category in LVIS["categories"]:
    category.update(frequency="f", synonyms=["rouge", "red"], synset="s", image_count=1)
FRACTIONS = copy.deepcopy(COCO)
for box in FRACTIONS["annotations"]:
    box["bbox"] = [number / 8 for number in box["bbox"]]
PARTLY = copy.deepcopy(COCO)
PARTLY["images"][0]["exhaustive_for"] = ["red"]
PARTLY["images"][1]["exhaustive_for"] = "coco"
CAPTIONS = {
    "images": COCO["images"],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a red dog"},
        {"id": 2, "image_id": 1, "caption": "a dog by a tree"},
        {"id": 3, "image_id": 2, "caption": "two cats"},
    ],
}
GROUNDING = {
    "images": [{**one, "caption": "a red dog by a tree"} for one in COCO["images"]],
    "annotations": [
        {"id": 1, "image_id": 1, "bbox": [0, 0, 4, 4], "tokens_positive": [[0, 9]], "iscrowd": 0},
        {"id": 2, "image_id": 1, "bbox": [1, 1, 4, 4], "tokens_positive": [[2, 5], [6, 9]]},
        {"id": 3, "image_id": 2, "bbox": [1, 1, 4, 4], "tokens_positive": [[13, 19]]},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.png", "filepath": ".", "cocoid": 1, "split": "train",
         "sentences": [{"raw": "a red dog"}, {"raw": "a dog"}]},
        {"filename": "b.png", "imgid": 2, "split": "restval", "sentences": [{"raw": "a cat"}]},
        {"filename": "b.png", "cocoid": 3, "split": "val", "sentences": [{"raw": "a cat"}]},
    ]
}  # fmt: skip
VQA = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": "a", "question_id": 1, "question": "is it red?"},
        {"image_id": "b", "question_id": 2, "question": "how many?"},
    ],
    "annotations": [
        {"question_id": 1, "answers": [{"answer": "yes"}, {"answer": "no"}, {"answer": "yes"}]},
        {"question_id": 2, "answers": [{"answer": "two"}], "answer_type": "number"},
    ],
}
KEYS = {"images": ("id",), "annotations": (), "categories": ("id",)}
# Making a counter takes longer than an example.
COUNTER = SkipCounter(num_examples=0)
CAPTION_MAPPER = CaptionMapper(counter=COUNTER)
GROUNDING_MAPPER = GroundingMapper(
    negatives=["a cat", "the sky"], keep=["caption", "phrase_spans"], counter=COUNTER
)
CAPTIONING_MAPPER = CaptioningMapper(counter=COUNTER)
QUESTION_MAPPER = QuestionMapper(counter=COUNTER)
# Faults whose entry is read.
KEPT = {"annotations-id-twice", "size-malformed", "list-malformed", "box-fraction", "box-malformed"}


@pytest.fixture(scope="module")
def written(folder):
    """Writes the file of an example."""
    return partial(rewrite, folder / "damaged.json")


@given(json_files(COCO, LVIS, FRACTIONS))
def test_parser(written, content):
    """Every entry is read or a problem."""
    path = str(written(content))
    content = result_of(read_json, path, KEYS)
    given_parts = {part: copy.copy(content[part]) for part in KEYS} if content else {}
    parsed = result_of(parse_coco, path, content, KEYS) if content else None
    if parsed is None:
        return
    skipped = Counter(p.part for p in parsed.problems if p.fault not in KEPT)
    for part in KEYS:
        assert len(getattr(parsed, part)) + skipped[part] == len(given_parts[part]), part
    assert {problem.fault for problem in parsed.problems} <= POLICIES.keys()


@given(json_files(COCO, LVIS, FRACTIONS))
def test_training(written, folder, content):
    path, before = str(written(content)), COUNTER.total()
    read = result_of(load_detection_json, path, str(folder), COUNTER, True)
    names = result_of(names_of_json, path)
    if read is None:
        return
    assert names is not None
    assert len(names) == len(read[0])
    boxes = sum(len(record["annotations"]) for record in read[1])
    usable, skipped = len(read[1]) + len(read[0]) + boxes, COUNTER.total() - before
    content = read_json(path)
    assert usable + skipped >= sum(len(content[part]) for part in KEYS)
    check_samples(read[1], DetectionMapper(names, keep=["gt_masks"], counter=COUNTER))


@given(json_files(COCO, LVIS, FRACTIONS))
def test_evaluation(written, content):
    content = result_of(read_coco_json, written(content))
    if content is None:
        return
    for one in content["annotations"]:
        assert not not_finite([one["bbox"], one.get("area", 0.0)])
        assert len(one["bbox"]) == 4
    for image in content["images"]:
        assert not not_finite([image.get("width"), image.get("height")])


@given(json_files(LVIS))
def test_lvis_evaluation(written, content):
    content = result_of(read_lvis_json, str(written(content)))
    if content is not None:
        for one in content["annotations"]:
            assert not not_finite([one["bbox"], one["area"]])


@given(json_files(COCO, LVIS, FRACTIONS, PARTLY))
def test_finetuning(written, folder, content):
    path = written(content)
    data = result_of(read_own_data, path, folder)
    if data is None:
        return
    assert data.findings.keys() <= FINDINGS.keys()
    assert not not_finite([data.images, data.annotations])
    assert {one["image_id"] for one in data.annotations} <= {one["id"] for one in data.images}
    given_boxes = len(read_json(str(path))["annotations"])
    skipped = sum(len(data.findings.get(kind, ())) for kind in
                  ("box-speck", "box-unusable", "annotation-repeated", "image-unknown",
                   "category-unknown"))  # fmt: skip
    if len(data.annotations) + skipped != given_boxes:
        kinds = ("image-missing", "image-damaged", "image-rotated", "image-mismatched",
                 "image-unlabelled")  # fmt: skip
        assert any(kind in data.findings for kind in kinds)
        assert len(data.annotations) + skipped < given_boxes


@given(json_files(COCO))
def test_odinw(written, folder, content):
    written(content)
    one = OdinwSet("x", (13,), ".", {"test": "damaged.json"}, ("red", "blue"), ("x",))
    content = result_of(read_odinw, one, folder, "test")
    if content is not None:
        assert [category["name"] for category in content["categories"]] == ["red", "blue"]


@given(json_files(CAPTIONS))
def test_captions(written, folder, content):
    path, before = str(written(content)), COUNTER.total()
    records = result_of(coco_caption_records, path, str(folder), COUNTER)
    if records is None:
        return
    number = sum(len(record["captions"]) for record in records)
    content = read_json(path)
    assert number + COUNTER.total() - before >= len(content["annotations"])
    check_samples(records, CAPTION_MAPPER)


@given(json_files(GROUNDING))
def test_grounding(written, folder, content):
    path, before = str(written(content)), COUNTER.total()
    records = result_of(mdetr_records, path, str(folder), COUNTER, True)
    if records is None:
        return
    number = sum(len(record["annotations"]) for record in records)
    content = read_json(path)
    skipped = COUNTER.total() - before
    assert len(records) + number + skipped >= len(content["images"]) + len(content["annotations"])
    check_samples(records, GROUNDING_MAPPER)


@given(json_files(KARPATHY))
def test_karpathy(written, folder, content):
    path, before = str(written(content)), COUNTER.total()
    records = result_of(karpathy_records, path, str(folder), ("train", "restval"), COUNTER)
    if records is None:
        return
    images = read_json(path)["images"]
    others = [image for image in images if isinstance(image, dict) and _is_of_other_split(image)]
    assert len(records) + COUNTER.total() - before >= len(images) - len(others)
    check_samples(records, CAPTIONING_MAPPER)


def _is_of_other_split(image):
    return image.get("split") not in ("train", "restval")


@given(json_files(VQA))
def test_questions(written, folder, content):
    """One file has both parts, so that both are damaged."""
    path, before = str(written(content)), COUNTER.total()
    records = result_of(vqa_records, path, path, str(folder), "{id}.png", COUNTER)
    if records is None:
        return
    questions = read_json(path)["questions"]
    assert len(records) + COUNTER.total() - before >= len(questions)
    for record in records:
        assert not not_finite(list(record["answers"].values()))
    check_samples(records, QUESTION_MAPPER)
