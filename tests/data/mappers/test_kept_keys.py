"""Optional keys of samples that a mapper keeps: masks, captions, spans, questions."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from detclip2.data.datasets.grounding import OdvgCaptions
from detclip2.data.mappers import (
    CaptionMapper,
    DetectionMapper,
    GroundingMapper,
)
from detclip2.data.sample import SkipSample, check_sample
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.utils.errors import UserError
from tests.helpers.mapper_records import (
    HEIGHT,
    NAMES,
    RECORDS,
    WIDTH,
    box,
    mappers,
    record,
    rng,
    same,
)

POLYGON = [[10.0, 20.0, 40.0, 20.0, 40.0, 35.0, 10.0, 35.0]]  # of the box that box() has


def test_masks_are_kept_and_move_with_their_boxes():
    annotations = [
        box(1, segmentation=POLYGON),
        box(2, (0, 0, 5, 5)),
        box(1, (50, 50, 10, 5), segmentation=[[1, 2]]),
        box(3, iscrowd=1, segmentation=POLYGON),
    ]
    flip = [T.RandomFlip(prob=1.0), T.Resize((2 * HEIGHT, 2 * WIDTH))]
    mapper = DetectionMapper(NAMES, flip, keep=["gt_masks"])
    sample = mapper(record(annotations), rng())
    check_sample(sample, 150)
    instances = sample["instances"]
    masks = instances.gt_masks.tensor
    assert masks.flatten(1).any(dim=1).tolist() == [True, False, False]
    rows, columns = np.nonzero(masks[0].numpy())
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert edges == instances.gt_boxes.tensor[0].tolist()
    assert int(masks[0].sum()) == 60 * 30
    assert mapper.counter.counts() == {"mask-invalid": 1}
    plain = DetectionMapper(NAMES, flip)(record(annotations), rng())
    assert not plain["instances"].has("gt_masks")
    assert same(plain["instances"], instances)
    nothing = mapper(record(), rng())
    check_sample(nothing, 150)
    assert nothing["instances"].gt_masks.tensor.shape == (0, 2 * HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
        [[500.0, 500, 510, 500, 510, 510]],
        [[20.2, 20.2, 20.3, 20.2, 20.3, 20.3]],
    ],
)
def test_a_mask_without_a_pixel_is_counted_and_its_box_is_kept(segmentation):
    mapper = DetectionMapper(NAMES, keep=["gt_masks"])
    sample = mapper(record([box(1, segmentation=segmentation)]), rng())
    check_sample(sample, 150)
    assert len(sample["instances"]) == 1
    assert not sample["instances"].gt_masks.tensor.any()
    assert mapper.counter.counts() == {"mask-empty": 1}


def test_a_mask_that_a_crop_removes_is_not_looked_at():
    crop = [T.RandomCrop("absolute", (10, 10))]
    mapper = DetectionMapper(NAMES, crop, keep=["gt_masks"])
    left = record([box(1, (0, 0, 1, 1), segmentation=[[1, 2]])])
    for seed in range(5):
        sample = mapper(left, rng(seed))
        assert len(sample["instances"]) == len(sample["instances"].gt_masks)
        if not len(sample["instances"]):
            break
    assert len(sample["instances"]) == 0
    assert mapper.counter.total() == seed


def test_a_box_with_two_phrases_has_its_mask_twice():
    annotations = [box(phrases=["a dog", "the left one"], segmentation=POLYGON)]
    sample = GroundingMapper(keep=["gt_masks"])(record(annotations, caption="a dog"), rng())
    check_sample(sample, 100)
    masks = sample["instances"].gt_masks.tensor
    assert torch.equal(masks[0], masks[1])
    assert int(masks[0].sum()) == 30 * 15


def test_grounding_keeps_its_caption_and_spans():
    caption = "Two\x00dogs, a dog,  a small\ncat and the sea"
    annotations = [
        box(phrases=["a dog"], tokens_positive=[[10, 15]]),
        box(phrases=["small cat"], tokens_positive=[[20, 25], [26, 29]]),
        box(phrases=["the sea", "Two dogs"]),
        box(phrases=["an orca"], tokens_positive=[[0, 99], [3]]),
    ]
    full = record(annotations, caption=caption)
    before = copy.deepcopy(full)
    mapper = GroundingMapper(keep=["phrase_spans"], negatives=["kite"])
    sample = mapper(full, rng())
    check_sample(sample, 100)
    assert same(before, full)
    assert sample["caption"] == "Two dogs, a dog,  a small cat and the sea"
    texts = [
        [sample["caption"][begin:end] for begin, end in spans] for spans in sample["phrase_spans"]
    ]
    positives = sample["phrases"][: sample["num_positives"]]
    assert dict(zip(positives, texts, strict=True)) == {
        "a dog": ["a dog"],
        "small cat": ["small cat"],
        "the sea": ["the sea"],
        "Two dogs": ["Two dogs"],
        "an orca": [],
    }
    assert mapper.counter.counts() == {"span-outside": 2}
    plain = GroundingMapper(negatives=["kite"])(full, rng())
    assert sample.keys() - plain.keys() == {"caption", "phrase_spans"}
    assert same({key: sample[key] for key in plain}, plain)


def test_spans_of_a_phrase_over_the_limit_are_dropped():
    annotations = [box(phrases=[name], tokens_positive=[]) for name in ("dog", "cat", "cow")]
    mapper = GroundingMapper(keep=["phrase_spans"], max_phrases=2)
    for seed in range(6):
        sample = mapper(record(annotations, caption="cow cat dog"), rng(seed))
        check_sample(sample, 2)
        found = [sample["caption"][b:e] for ((b, e),) in sample["phrase_spans"]]
        assert found == sample["phrases"]


def test_captions_keep_the_caption_that_was_drawn():
    mapper = CaptionMapper(noun_phrases=lambda c: c.split()[1:], keep=["phrase_spans"])
    sample = mapper(record(captions=[" a  dog dog\x00 "]), rng())
    check_sample(sample, 32)
    assert sample["caption"] == "a dog dog"
    assert sample["phrases"] == ["a dog dog", "dog"]
    assert sample["phrase_spans"] == [[[0, 9]], [[2, 5], [6, 9]]]


TEXTS = {
    "question": "what is it?",
    "answers": {"a dog": 0.9, "dog": 1},
    "target_text": "A  dog\u200b.",
}


@pytest.mark.parametrize("kind", RECORDS)
def test_valid_texts_are_unchanged_and_invalid_ones_are_skipped(kind):
    make = type(mappers()[kind])
    names = (NAMES,) if kind == "detection" else ()
    mapper = make(*names, keep=list(TEXTS))
    full = {**RECORDS[kind], **TEXTS}
    sample = mapper(full, rng())
    check_sample(sample, 150)
    assert {key: sample[key] for key in TEXTS} == TEXTS
    assert not make(*names)(full, rng()).keys() & TEXTS.keys()
    for key, wrong in [("question", None), ("answers", ["a dog"]), ("target_text", "")]:
        with pytest.raises(SkipSample, match=key) as info:
            mapper({**full, key: wrong}, rng())
        assert info.value.kind == "record-malformed"


def test_a_key_that_a_mapper_cannot_keep_is_refused():
    with pytest.raises(UserError, match=r"keep has \['phrase_spans'\]; DetectionMapper can keep"):
        DetectionMapper(NAMES, keep=["phrase_spans"])
    with pytest.raises(UserError, match="'gt_masks'"):
        CaptionMapper(keep=["gt_masks"])


def test_names_keep_the_order_of_the_data_set():
    mapper = DetectionMapper(NAMES, keep=["phrase_order"], max_phrases=4)
    for seed in range(20):
        sample = mapper(record([box(4), box(1), box(1)]), rng(seed))
        check_sample(sample, 4)
        ordered = [sample["phrases"][i] for i in sample["phrase_order"]]
        assert ordered == [name for name in NAMES if name in sample["phrases"]]
        assert len(ordered) == 4
    assert mapper(record(), rng())["phrase_order"].dtype == torch.int64
    with pytest.raises(UserError, match="have no order in names"):
        DetectionMapper(
            NAMES, keep=["phrase_order"], negatives=ConceptDictionary.from_names(["tree"])
        )


def test_the_number_of_negatives_varies():
    """All of them in half of the samples, else uniform: binomial counts, five deviations."""
    mapper = DetectionMapper(NAMES, varied_negatives=4)
    numbers = []
    for seed in range(800):
        sample = mapper(record([box(1)]), rng(seed))
        assert sample["phrases"][0] == "dog"
        numbers.append(len(sample["phrases"]) - 1)
    for number, share in ((1, 1 / 8), (2, 1 / 8), (3, 1 / 8), (4, 5 / 8)):
        deviation = (800 * share * (1 - share)) ** 0.5
        assert abs(numbers.count(number) - 800 * share) < 5 * deviation
    few = DetectionMapper(NAMES, varied_negatives=4, max_phrases=2)
    assert {len(few(record([box(1)]), rng(seed))["phrases"]) for seed in range(20)} == {2}


def test_captions_of_other_images_are_drawn():
    """None in 40 % of the samples, all 20 in 30 %, else 0 to 19 of them."""
    own = "a dog"
    pool = [own, *(f"caption\x00{i}" for i in range(100)), " "]
    full = record([box(phrases=["dog"])], caption=own)
    mapper = GroundingMapper(other_captions=pool)
    numbers = []
    for seed in range(400):
        sample = mapper(full, rng(seed))
        check_sample(sample, 100)
        others = sample["other_captions"]
        assert len(set(others)) == len(others)
        assert own not in others
        assert all(text.startswith("caption ") for text in others)
        numbers.append(len(others))
    assert sample["phrase_spans"] == [[[2, 5]]]
    deviation = 400**0.5 / 2
    assert abs(numbers.count(0) - 400 * (0.4 + 0.3 / 20)) < 5 * deviation
    # 20 are drawn, of which the caption itself and the blank one are skipped.
    assert abs(sum(n >= 18 for n in numbers) - 400 * (0.3 + 0.3 / 10)) < 5 * deviation
    assert max(numbers) == 20


def test_captions_that_cannot_be_read_are_no_negatives(tmp_path):
    file = tmp_path / "web.jsonl"
    line = '{"filename": "a.jpg", "grounding": {"caption": %s, "regions": []}}\n'
    file.write_text(line % '"a red kite"' + line % "7" + "{}\n")
    captions = OdvgCaptions(str(file))
    assert captions[0] == "a red kite"
    mapper = GroundingMapper(other_captions=captions)
    full = record([box(phrases=["dog"])], caption="a dog")
    drawn = {tuple(mapper(full, rng(seed))["other_captions"]) for seed in range(30)}
    assert drawn == {(), ("a red kite",)}
