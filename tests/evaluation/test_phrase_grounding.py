"""Recall of phrases against a loop over phrases and boxes, as defined in MDETR's paper."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances

from detclip2.data.datasets.grounding import mdetr_records
from detclip2.data.emojiscenes import EmojiGrounding
from detclip2.data.emojiscenes.sprites import find_emoji_font
from detclip2.data.mappers.phrase_grounding import Mention, MentionMapper, mentions_of
from detclip2.evaluation.phrase_grounding import (
    PhraseGroundingEvaluator,
    first_right,
    grounding_set,
    merged,
)
from detclip2.modeling.postprocess import TopKPerPhrase
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes

TYPES = [("people",), ("people", "other"), (), ("scene",)]
PHRASES = ["a man", "two dogs", "the sky", "A man", "shirt"]  # the first and fourth are one


def random_box(rng):
    corner = rng.uniform(0, 60, 2)
    return tuple(np.concatenate([corner, corner + rng.uniform(5, 40, 2)]).tolist())


def random_records(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "image_id": f"{i // 3}",
            "sentence_id": i % 3,
            "mentions": [
                Mention(
                    PHRASES[rng.integers(len(PHRASES))],
                    tuple(random_box(rng) for _ in range(rng.integers(1, 4))),
                    TYPES[rng.integers(len(TYPES))],
                )
                for _ in range(rng.integers(1, 5))
            ],
        }
        for i in range(count)
    ]


def detections(record, seed=0):
    """Unordered boxes, near those of the phrases and elsewhere, for each phrase of the caption."""
    rng = np.random.default_rng([seed, int(record["image_id"]), record["sentence_id"]])
    names = list(dict.fromkeys(m.phrase.casefold() for m in record["mentions"]))
    boxes, classes = [], []
    for mention in record["mentions"]:
        for box in mention.boxes:
            for _ in range(rng.integers(0, 5)):
                boxes.append(np.array(box) + rng.normal(0, 4, 4))
                classes.append(names.index(mention.phrase.casefold()))
    for _ in range(4):
        boxes.append(np.array(random_box(rng)))
        classes.append(rng.integers(len(names)))
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)),
        pred_classes=torch.tensor(np.array(classes, dtype=np.int64)),
        scores=torch.tensor(rng.random(len(boxes)), dtype=torch.float32),
    )


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def slow_recall(records, k, merge, kind=None):
    right = total = 0
    for record in records:
        instances = detections(record)
        names = list(dict.fromkeys(m.phrase.casefold() for m in record["mentions"]))
        for mention in record["mentions"]:
            if kind is not None and kind not in mention.types:
                continue
            total += 1
            found = sorted(
                (
                    (score, box)
                    for score, box, name in zip(
                        instances.scores.tolist(),
                        instances.pred_boxes.tensor.tolist(),
                        instances.pred_classes.tolist(),
                        strict=True,
                    )
                    if names[name] == mention.phrase.casefold()
                ),
                reverse=True,
            )[:k]
            targets = mention.boxes
            if merge:
                x1, y1, x2, y2 = zip(*targets, strict=True)
                targets = [(min(x1), min(y1), max(x2), max(y2))]
            right += any(iou(box, target) >= 0.5 for _, box in found for target in targets)
    return 100 * right / total


def feed(evaluator, records):
    for record in records:
        sample = {"image_id": record["image_id"], "sentence_id": record["sentence_id"]}
        evaluator.process([sample], [{"instances": detections(record)}])
    return evaluator


def test_equals_a_slow_loop(tmp_path):
    records = random_records()
    grounding_set("words", records)
    evaluator = PhraseGroundingEvaluator("words", tmp_path)
    results = feed(evaluator, records).evaluate()
    assert list(results) == ["any_box", "merged_boxes"]
    for protocol, metrics in results.items():
        for k in (1, 5, 10):
            merge = protocol == "merged_boxes"
            assert metrics[f"R@{k}"] == pytest.approx(slow_recall(records, k, merge))
            for kind in ("people", "other", "scene"):
                expected = slow_recall(records, k, merge, kind)
                assert metrics[f"R@{k}-{kind}"] == pytest.approx(expected)
        assert len(metrics) == 12
        assert 5 < metrics["R@1"] < metrics["R@10"] < 100, "the test distinguishes right from wrong"
    assert results["any_box"] != results["merged_boxes"]
    evaluator.reset()
    with pytest.raises(UserError, match="words: 12 of 12 captions were not evaluated"):
        evaluator.evaluate()


def test_output_files_and_the_protocol_line(tmp_path, caplog):
    records = random_records()
    grounding_set("words", records)
    with caplog.at_level(logging.INFO, "detclip2"):
        results = feed(PhraseGroundingEvaluator("words", tmp_path), records).evaluate()
    [line] = [x for x in caplog.text.splitlines() if "Protocol: " in x]
    count = sum(len(record["mentions"]) for record in records)
    for part in (f"{count} phrases of 12 captions, sha256", "10 of a phrase", "IoU >= 0.5"):
        assert part in line
    written = json.loads((tmp_path / "grounding_results.json").read_text())
    assert written["any_box"] == pytest.approx(results["any_box"])
    assert written["protocol"]["dataset"] == "words"
    assert written["phrases"]["all"] == count
    predictions = json.loads((tmp_path / "grounding_predictions.json").read_text())
    assert len(predictions) == 12
    for record, prediction in zip(records, predictions, strict=True):
        assert prediction["image_id"] == record["image_id"]
        assert prediction["sentence_id"] == record["sentence_id"]
        assert len(prediction["boxes"]) == len(record["mentions"])
        for boxes, scores in zip(prediction["boxes"], prediction["scores"], strict=True):
            assert len(boxes) == len(scores) <= 10
            assert scores == sorted(scores, reverse=True)


def test_the_hash_depends_on_the_annotations_alone():
    def hash_of(records):
        grounding_set("words", records)
        return PhraseGroundingEvaluator("words").protocol.annotations

    records = random_records()
    first = hash_of(records)
    assert hash_of(records[::-1]) == first
    moved = random_records()
    moved[3]["mentions"][0] = moved[3]["mentions"][0]._replace(boxes=((0, 0, 1, 1),))
    assert hash_of(moved) != first


def recall_of_a_share(rank, world_size):
    records = random_records()
    grounding_set("words", records)
    results = feed(PhraseGroundingEvaluator("words"), records[rank::world_size]).evaluate()
    return {} if results is None else results


@pytest.mark.processes
def test_the_number_of_processes_does_not_matter():
    alone = recall_of_a_share(0, 1)
    first, second = run_processes(recall_of_a_share, 2)
    assert first == alone
    assert second == {}


def test_phrases_without_a_correct_box_count_as_missed():
    """A phrase with fewer than k boxes, none of them correct, is missed at every k."""
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert first_right(torch.zeros(0, 4), target) == math.inf
    assert first_right(torch.tensor([[20.0, 20.0, 30.0, 30.0]]), target) == math.inf
    half = torch.tensor([[0.0, 0.0, 10.0, 4.9], [0.0, 0.0, 10.0, 5.0]])  # IoU 0.49 and 0.5
    assert first_right(half, target) == 1
    assert first_right(half, target, 0.51) == math.inf
    assert merged(torch.tensor([[5.0, 1, 6, 9], [0, 2, 7, 3]])).tolist() == [[0, 1, 7, 9]]


def test_captions_without_a_grounded_phrase_are_skipped():
    records = random_records(3)
    records[1]["mentions"] = []
    kept = grounding_set("words", records)
    assert [kept[i]["sentence_id"] for i in range(len(kept))] == [0, 2]
    assert DatasetCatalog.get("words") is kept
    assert "two dogs" in MetadataCatalog.get("words").thing_classes
    with pytest.raises(UserError, match="words: there is no caption with a phrase that has a box"):
        grounding_set("words", records[1:2])
    with pytest.raises(UserError, match="words: there is no caption"):
        grounding_set("words", [])


def test_mismatched_samples_are_refused():
    records = random_records(3)
    grounding_set("words", records)
    evaluator = feed(PhraseGroundingEvaluator("words"), records[:2])
    with pytest.raises(UserError, match=r"1 of 3 captions .* sentence 2 of image 0"):
        evaluator.evaluate()
    with pytest.raises(UserError, match="sentence 0 of image 0 was evaluated twice"):
        feed(evaluator, records[:1])
    with pytest.raises(UserError, match="not in words"):
        feed(evaluator, [{**records[0], "image_id": "99"}])
    other = {**records[2], "vocabulary": ["something else"]}
    with pytest.raises(UserError, match="expected the phrases of the caption"):
        evaluator.process([other], [{"instances": detections(records[2])}])
    found = detections(records[2])
    found.scores[0] = torch.nan
    with pytest.raises(UserError, match="is not a finite number"):
        evaluator.process([records[2]], [{"instances": found}])
    with pytest.raises(UserError, match="'nowhere' is not registered by grounding_set"):
        PhraseGroundingEvaluator("nowhere")
    with pytest.raises(UserError, match="sentence 0 of image 0 is there twice"):
        grounding_set("words", [records[0], records[0]])


def test_a_json_of_mdetr(tmp_path):
    content = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "caption": "A man and two dogs"},
            {"id": 6, "file_name": "a.jpg", "caption": "Nothing"},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "bbox": [1, 2, 3, 4], "tokens_positive": [[0, 5]]},
            {"id": 2, "image_id": 5, "bbox": [0, 0, 2, 2], "tokens_positive": [[10, 18]]},
            {"id": 3, "image_id": 5, "bbox": [4, 4, 2, 2], "tokens_positive": [[10, 18]]},
        ],
    }
    path = tmp_path / "final_flickr_separateGT_test.json"
    path.write_text(json.dumps(content))
    [kept] = list(grounding_set("words", mdetr_records(str(path), "images")))
    assert mentions_of(kept) == [
        Mention("A man", ((1, 2, 4, 6),)),
        Mention("two dogs", ((0, 0, 2, 2), (4, 4, 6, 6))),
    ]


def test_a_model_on_scenes(tiny_config):
    """From records that are drawn when asked for to recall; everything found at the lowest IoU."""
    try:
        find_emoji_font()
    except UserError as error:
        pytest.skip(str(error))
    tiny_config.postprocess = TopKPerPhrase(max_detections=10)
    torch.manual_seed(0)
    model = instantiate(tiny_config).eval()
    records = grounding_set("scenes", EmojiGrounding(10, count=3, size=64, seed=9))
    loader = build_detection_test_loader(dataset=records, mapper=MentionMapper([]), batch_size=2)
    evaluator = PhraseGroundingEvaluator("scenes", iou_threshold=0.0)
    results = inference_on_dataset(model, loader, evaluator)
    assert results["any_box"]["R@1"] == 100
    strict = inference_on_dataset(
        model, loader, PhraseGroundingEvaluator("scenes", iou_threshold=1.0)
    )
    assert strict["any_box"]["R@10"] == 0
