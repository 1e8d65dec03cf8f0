"""Mean and cumulative IoU of phrases' masks against a loop over pixels."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from detclip2.data.datasets.phrasecut import PhraseCut
from detclip2.data.emojiscenes import EmojiGrounding
from detclip2.data.emojiscenes.sprites import find_emoji_font
from detclip2.data.mappers.phrase_grounding import MentionMapper
from detclip2.evaluation.referring_segmentation import (
    ReferringSegmentationEvaluator,
    mask_metrics,
    referring_set,
)
from detclip2.utils.errors import UserError
from tests.helpers.masks import ellipse, rle
from tests.helpers.phrasecut import write

NAME = "test_referring"
HEIGHT, WIDTH = 40, 60


@pytest.fixture(autouse=True)
def _clean():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def box(rng):
    corner = rng.uniform(0, 20, 2)
    return np.concatenate([corner, corner + rng.uniform(8, 20, 2)]).tolist()


def annotation(rng, phrases):
    own = box(rng)
    mask = ellipse(own, HEIGHT, WIDTH)
    return {
        "bbox": own,
        "bbox_mode": BoxMode.XYXY_ABS,
        "phrases": phrases,
        "segmentation": rle(mask),
    }


def records(count=8, seed=0):
    """Captions of a phrase with one object, and one with two."""
    rng = np.random.default_rng(seed)
    return [
        {
            "image_id": i,
            "sentence_id": 0,
            "height": HEIGHT,
            "width": WIDTH,
            "caption": "a dog and two cats",
            "annotations": [
                annotation(rng, ["dog"]),
                annotation(rng, ["cats"]),
                annotation(rng, ["cats"]),
            ],
        }
        for i in range(count)
    ]


def detections(record, number=6):
    """Of both phrases: some true boxes, moved, and others, each with an ellipse."""
    rng = np.random.default_rng([1, record["image_id"]])
    boxes = [np.array(a["bbox"]) + rng.normal(0, 1, 4) for a in record["annotations"]]
    boxes += [np.array(box(rng)) for _ in range(number - len(boxes))]
    masks = np.stack([ellipse(one, HEIGHT, WIDTH) for one in boxes])
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32)),
        pred_classes=torch.tensor([0, 1, 1, *rng.integers(0, 2, number - 3)]),
        scores=torch.tensor(rng.random(number), dtype=torch.float32),
        pred_masks=torch.from_numpy(masks),
    )


def feed(evaluator, given, make=detections):
    evaluator.reset()
    for record in given:
        evaluator.process([record], [{"instances": make(record)}])
    return evaluator.evaluate()


def by_loops(given, threshold):
    """PhraseCut's definition, pixel by pixel."""
    ious, intersections, unions = [], 0, 0
    for record in given:
        found = detections(record)
        for label, phrase in enumerate(["dog", "cats"]):
            own = [i for i in range(len(found)) if found.pred_classes[i] == label]
            best = max(own, key=lambda i: found.scores[i], default=None)
            if threshold is None:
                own = own and [best]
            else:
                own = [i for i in own if found.scores[i] >= threshold or i == best]
            of_phrase = [a for a in record["annotations"] if phrase in a["phrases"]]
            both = either = 0
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    said = any(found.pred_masks[i, y, x] for i in own)
                    true = any(
                        ((2 * (x + 0.5) - a - c) / (c - a)) ** 2
                        + ((2 * (y + 0.5) - b - d) / (d - b)) ** 2
                        <= 1
                        for a, b, c, d in (one["bbox"] for one in of_phrase)
                    )
                    both, either = both + (said and true), either + (said or true)
            ious.append(both / either)
            intersections, unions = intersections + both, unions + either
    expected = {"mIoU": sum(ious) / len(ious), "cIoU": intersections / unions}
    for overlap in (0.5, 0.7, 0.9):
        expected[f"Pr@{overlap}"] = sum(iou > overlap for iou in ious) / len(ious)
    return {name: 100 * value for name, value in expected.items()}


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_metrics_equal_a_loop_over_pixels(threshold, tmp_path):
    given = records(3)
    referring_set(NAME, given)
    evaluator = ReferringSegmentationEvaluator(NAME, tmp_path, score_threshold=threshold)
    results = feed(evaluator, given)
    expected = by_loops(given, threshold)
    assert results["masks"] == pytest.approx(expected)
    assert 10 < expected["mIoU"] < 90
    assert results["any_box"].keys() == {"R@1", "R@5", "R@10"}
    written = json.loads((tmp_path / "referring_results.json").read_text())
    assert written["masks"] == pytest.approx(expected)
    asked = "the best" if threshold is None else "all of score >= 0.5"
    assert asked in written["protocol"]["metric"]


def test_closed_forms():
    metrics = mask_metrics(np.array([1, 6, 0, 0]), np.array([2, 6, 0, 10]))
    assert metrics == {
        "mIoU": 37.5,
        "cIoU": pytest.approx(100 * 7 / 18),
        "Pr@0.5": 25.0,  # above 0.5, not at 0.5
        "Pr@0.7": 25.0,
        "Pr@0.9": 25.0,
    }


def test_a_perfect_model_and_one_that_finds_nothing():
    given = records(4)
    referring_set(NAME, given)
    evaluator = ReferringSegmentationEvaluator(NAME)

    def perfect(record):
        found = detections(record, number=3)
        masks = [ellipse(one["bbox"], HEIGHT, WIDTH) for one in record["annotations"]]
        found.pred_masks = torch.from_numpy(np.stack(masks))
        found.scores = torch.full((3,), 0.9)
        return found

    assert set(feed(evaluator, given, perfect)["masks"].values()) == {100.0}
    nothing = feed(evaluator, given, lambda record: detections(record)[:0])
    assert set(nothing["masks"].values()) == {0.0}


def test_what_cannot_be_measured_is_refused():
    given = records(2)
    referring_set(NAME, given)
    evaluator = ReferringSegmentationEvaluator(NAME)

    def without_masks(record):
        found = detections(record)
        found.remove("pred_masks")
        return found

    with pytest.raises(UserError, match="the model gives none"):
        feed(evaluator, given, without_masks)

    def of_another_size(record):
        found = detections(record)
        found.pred_masks = found.pred_masks[:, 1:]
        return found

    with pytest.raises(UserError, match="masks of image 0 are"):
        feed(evaluator, given, of_another_size)
    with pytest.raises(UserError, match="were not evaluated"):
        feed(evaluator, given[:1])
    given[1]["annotations"][2]["segmentation"] = [[1, 1, 5, 5]]
    with pytest.raises(UserError, match="the mask of 'cats' cannot be read"):
        referring_set(NAME, given)
    del given[0]["height"]
    with pytest.raises(UserError, match="no height and width"):
        referring_set(NAME, given)


def test_phrasecut_is_a_referring_set(tmp_path):
    kept = referring_set(NAME, PhraseCut(write(tmp_path)))
    evaluator = ReferringSegmentationEvaluator(NAME)
    mapper = MentionMapper([], whole_captions=True)
    evaluator.reset()
    for record in kept:
        asked = mapper(record)
        assert asked["vocabulary"].caption == record["caption"]
        assert asked["vocabulary"].spans == (((0, len(record["caption"])),),)
        size = record["height"], record["width"]
        masks = torch.zeros(1, *size, dtype=torch.bool)
        masks[0, 20:41, 10:31] = True  # of the square, not of what else is there
        found = Instances(
            size,
            pred_boxes=Boxes([[10, 20, 31, 41]]),
            pred_classes=torch.tensor([0]),
            scores=torch.tensor([0.8]),
            pred_masks=masks,
        )
        evaluator.process([asked], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["any_box"]["R@1"] == 100
    assert 60 < results["masks"]["mIoU"] < 100
    (tmp_path / "refer_test.json").write_text('[{"phrase": "red door", "image_id": 8}]')
    with pytest.raises(UserError, match="phrase 0"):
        referring_set(NAME, PhraseCut(str(tmp_path)))


def test_the_scenes_of_a_world():
    try:
        find_emoji_font()
    except UserError as error:
        pytest.skip(str(error))
    scenes = EmojiGrounding(20, count=5, size=96, referring=1.0, masks=True)
    kept = referring_set(NAME, scenes)
    masks = MetadataCatalog.get(NAME).masks
    assert len(masks) == len(kept)
    mentions = MetadataCatalog.get(NAME).mentions
    for key, of_caption in masks.items():
        assert len(of_caption) == len(mentions[key])
        assert all(one["size"] == [96, 96] for one in of_caption)


def test_of_equal_scores_one_detection_is_the_mask_of_one_object():
    evaluator = object.__new__(ReferringSegmentationEvaluator)
    evaluator.score_threshold = None
    masks = torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[0, 0], masks[1, 1] = True, True
    found = Instances((2, 2), pred_masks=masks, scores=torch.tensor([0.5, 0.5]))
    assert evaluator._mask(found).tolist() == [[True, True], [False, False]]
