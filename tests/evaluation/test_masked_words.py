"""Masked words: which are asked for, and their accuracy."""

import numpy as np
import pytest
from detectron2.structures import BoxMode

from detclip2.data.mappers.masked_words import MaskedWordMapper
from detclip2.evaluation.masked_words import MaskedWordEvaluator
from detclip2.evaluation.phrase_grounding import grounding_set
from detclip2.utils.errors import UserError
from tests.helpers.processes import run_processes

CAPTION = "The small dog is left of a red fire engine."
BOXED = {"small", "dog", "red", "fire", "engine"}


def record(image_id=1, caption=CAPTION, phrases=("small dog", "red fire engine"), **more):
    return {
        "image": np.zeros((20, 30, 3), dtype=np.uint8),
        "height": 20,
        "width": 30,
        "image_id": image_id,
        "caption": caption,
        "annotations": [
            {"bbox": [1, 2, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "phrases": [phrase]}
            for phrase in phrases
        ],
        **more,
    }


def mapped(probability=0.15, **arguments):
    return MaskedWordMapper([], probability)(record(**arguments))


def test_words_are_masked_by_the_sentence_alone():
    first, again, other = mapped(), mapped(), mapped(sentence_id=1)
    assert first["masked_spans"] == again["masked_spans"]
    assert first["caption"] == CAPTION
    choices = {tuple(mapped(image_id=i)["masked_spans"]) for i in range(30)}
    assert len(choices) > 10
    assert other["sentence_id"] == 1


def test_a_share_of_the_words_and_at_least_one_is_masked():
    numbers = [len(mapped(image_id=i)["masked_spans"]) for i in range(400)]
    assert min(numbers) == 1
    # Of 10 words, 1.5, or 1 where none is drawn.
    assert np.mean(numbers) == pytest.approx(1.5 + 0.85**10, abs=0.15)
    everything = mapped(probability=1.0)
    words = CAPTION.rstrip(".").split()
    assert [word for word, _ in everything["masked_words"]] == words
    assert [CAPTION[b:e] for b, e in everything["masked_spans"]] == words
    assert {word for word, boxed in everything["masked_words"] if boxed} == BOXED
    assert len(mapped(probability=0.0)["masked_spans"]) == 1


def test_a_caption_without_its_phrase_is_refused():
    with pytest.raises(UserError, match="does not have the phrase 'cow'"):
        mapped(phrases=["cow"])


@pytest.fixture
def records():
    records = [record(i) for i in range(3)]
    grounding_set("masked_words_test", records)
    return records


def outputs_of(sample, right, blind):
    """Words of which the first ones are right, written in capitals."""
    words = [word for word, _ in sample["masked_words"]]

    def first(number):
        return [w.upper() if i < number else "wrong" for i, w in enumerate(words)]

    return {"words": first(right), "words_without_image": first(blind)}


def evaluated(indices, records, right=4, blind=2):
    evaluator = MaskedWordEvaluator("masked_words_test")
    mapper = MaskedWordMapper([], probability=1.0)
    samples = [mapper(records[i]) for i in indices]
    evaluator.process(samples, [outputs_of(sample, right, blind) for sample in samples])
    return evaluator


def test_accuracy_by_hand(records, tmp_path):
    """Of 10 words, 4 are right with the image: The, small, dog, is; without: The, small."""
    evaluator = evaluated([0], records)
    evaluator._folder = tmp_path
    results = evaluator.evaluate()["masked_words"]
    assert results == {
        "accuracy": 40.0,
        "without_image": 20.0,
        "accuracy-boxed": 40.0,  # of the 5 boxed words, 2
        "without_image-boxed": 20.0,
    }
    assert (tmp_path / "masked_words.json").exists()
    evaluator.reset()
    with pytest.raises(UserError, match="no image was evaluated"):
        evaluator.evaluate()


def test_a_caption_counts_once(records):
    with pytest.raises(UserError, match="evaluated twice"):
        evaluated([0, 1, 0], records).evaluate()


def test_input_of_other_data_and_models_is_refused(records):
    evaluator = evaluated([], records)
    sample = MaskedWordMapper([])(record(77))
    with pytest.raises(UserError, match="not in masked_words_test"):
        evaluator.process([sample], [outputs_of(sample, 0, 0)])
    sample = MaskedWordMapper([])(records[0])
    with pytest.raises(UserError, match="does not predict masked words"):
        evaluator.process([sample], [{"instances": None}])
    with pytest.raises(UserError, match="not registered"):
        MaskedWordEvaluator("unknown_set")


def in_a_process(rank, world_size):
    records = [record(i) for i in range(3)]
    grounding_set("masked_words_test", records)
    return evaluated([[0, 1], [2]][rank], records, right=[10, 4][rank], blind=0).evaluate()


@pytest.mark.processes
def test_processes_add_up():
    main, other = run_processes(in_a_process, 2)
    assert other is None
    assert main["masked_words"]["accuracy"] == pytest.approx(100 * 24 / 30)
    assert main["masked_words"]["without_image"] == 0
