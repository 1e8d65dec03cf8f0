"""Which detections are right, against a slow matching by COCO's rule."""

import copy

import numpy as np

from detclip2.evaluation.matching import match
from tests.helpers import toy_coco


def iou(one, other, crowd):
    corners = [
        min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]) for i in (0, 1)
    ]
    common = max(corners[0], 0) * max(corners[1], 0)
    area = one[2] * one[3]
    return common / (area if crowd else area + other[2] * other[3] - common)


def slow(content, detections):
    """(image, category, score, right) of each detection that counts."""
    judged, taken = [], set()
    for one in sorted(detections, key=lambda d: -d["score"]):
        same = [
            (iou(one["bbox"], box["bbox"], box["iscrowd"]), box)
            for box in content["annotations"]
            if (box["image_id"], box["category_id"]) == (one["image_id"], one["category_id"])
        ]
        near = [(overlap, box) for overlap, box in same if overlap >= 0.5]
        free = [(o, b["id"]) for o, b in near if not b["iscrowd"] and b["id"] not in taken]
        if free:
            taken.add(max(free)[1])
        if free or not any(box["iscrowd"] for _, box in near):
            judged.append((one["image_id"], one["category_id"], one["score"], bool(free)))
    return sorted(judged)


def judged(matches):
    columns = (matches.image_ids, matches.category_ids, matches.scores.tolist(), matches.right)
    return sorted(zip(*columns, strict=True))


def test_equal_to_a_slow_matching():
    content = toy_coco.content()
    found = toy_coco.as_results(toy_coco.detections(content))
    matches = match(content, found)
    expected = slow(content, found)
    assert judged(matches) == expected
    assert 0.05 < np.mean([right for *_, right in expected]) < 0.5
    assert len(matches.boxes) == sum(not box["iscrowd"] for box in content["annotations"])


def test_unknown_and_not_exhaustive_names_do_not_count():
    content = toy_coco.content()
    found = toy_coco.as_results(toy_coco.detections(content))
    partly = copy.deepcopy(content)
    fish, crab, eel = toy_coco.IDS
    partly["images"][0]["neg_category_ids"] = [crab]
    partly["images"][1]["not_exhaustive_category_ids"] = [fish]
    boxed = {a["category_id"] for a in content["annotations"] if a["image_id"] == 1}
    unknown = {(1, c) for c in (fish, eel) if c not in boxed} | {(2, fish)}
    matches = match(partly, found)
    expected = [one for one in slow(content, found) if one[:2] not in unknown]
    assert judged(matches) == expected
    assert len(expected) < len(slow(content, found))
    assert not any((b["image_id"], b["category_id"]) in unknown for b in matches.boxes)


def test_nothing_found_or_nothing_to_find():
    content = toy_coco.content()
    nothing = match(content, [])
    assert len(nothing.scores) == len(nothing.right) == len(nothing.image_ids) == 0
    assert nothing.boxes
    found = toy_coco.as_results(toy_coco.detections(content))
    wrong = match({**content, "annotations": []}, found)
    assert len(wrong.right) == len(found)
    assert not wrong.right.any()
