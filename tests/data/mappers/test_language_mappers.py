"""Samples of questions and of captions to write, and the records that are skipped."""

import numpy as np
import pytest

from detclip2.data.mappers import (
    CaptioningMapper,
    EvaluationMapper,
    QuestionMapper,
    draw_sample,
)
from detclip2.data.sample import SkipSample, check_sample
from tests.helpers.mapper_records import record, rng


def question(**changes):
    return record(**{"question": "is there a dog?", "answers": {"yes": 1.0}, **changes})


def test_a_question():
    sample = QuestionMapper()(question(question=" Is there\ta dog? "), rng())
    check_sample(sample)
    assert (sample["question"], sample["answers"]) == ("Is there a dog?", {"yes": 1.0})
    assert sample["image"].float().std() > 0
    blind = QuestionMapper(blind=True)(question(), rng())
    check_sample(blind)
    assert blind["image"].shape == sample["image"].shape
    assert not blind["image"].any()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"question": "?!"}, "question-without-words"),
        ({"question": ""}, "record-malformed"),
        ({"question": None}, "record-malformed"),
        ({"question": 5}, "record-malformed"),
        ({"answers": {}}, "record-malformed"),
        ({"answers": None}, "record-malformed"),
        ({"answers": {"yes": "1"}}, "record-malformed"),
        ({"answers": ["yes"]}, "record-malformed"),
        ({"answers": {"perhaps": 1.0}}, "answer-unknown"),
        ({"image": None, "file_name": "none.jpg"}, "image-unreadable"),
    ],
)
def test_questions_that_are_skipped(changes, kind):
    mapper = QuestionMapper(known_answers=["yes", "no"])
    assert draw_sample([question(**changes)], 0, mapper, rng()) is None
    assert mapper.counter.counts() == {kind: 1}


def test_questions_of_any_script_and_length():
    mapper = QuestionMapper()
    for text in ("これは何ですか", "ما هذا؟", "que hay aqui " * 400):
        sample = mapper(question(question=text), rng())
        check_sample(sample)
        assert len(sample["question"]) <= 1000
        assert sample["question"].startswith(text[:5])


def test_a_caption_to_write():
    mapper = CaptioningMapper()
    captions = ["a dog", "a brown  dog"]
    drawn = {
        mapper(record(captions=captions), np.random.default_rng(i))["target_text"]
        for i in range(20)
    }
    assert drawn == {"a dog", "a brown dog"}
    sample = mapper(record(caption=b"a dog"), rng())
    check_sample(sample)
    assert sample["target_text"] == "a dog"
    assert "question" not in sample


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "caption-empty"),
        ({"caption": " ..."}, "caption-empty"),
        ({"captions": [""]}, "caption-empty"),
        ({"caption": b"\xff"}, "caption-encoding"),
        ({"caption": 5}, "record-malformed"),
    ],
)
def test_captions_that_are_skipped(changes, kind):
    with pytest.raises(SkipSample) as skip:
        CaptioningMapper()(record(**changes), rng())
    assert skip.value.kind == kind


def test_what_a_model_is_to_do_in_evaluation():
    plain = EvaluationMapper([])(question())
    assert "supervision" not in plain
    asked = EvaluationMapper([], supervision="vqa")(question())
    assert (asked["supervision"], asked["question"]) == ("vqa", "is there a dog?")
    assert asked["image"].equal(plain["image"])
    blind = EvaluationMapper([], supervision="vqa", blind=True)(question())
    assert blind["image"].shape == plain["image"].shape
    assert not blind["image"].any()
