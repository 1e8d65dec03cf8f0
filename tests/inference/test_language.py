"""Questions and captions of a tiny GLIPv2, through the predictor, with the boxes of phrases."""

import numpy as np
import pytest
import torch

from detclip2.config import InferenceSettings
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.inference.language import ask, describe
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.modeling.heads.caption_head import CaptionHead
from detclip2.utils.errors import UserError
from detclip2.visualization.language import draw_grounded
from tests.helpers.tiny_glip import TEXT, tiny_glip, tiny_glipv2

ANSWERS = ["yes", "no", "red", "2"]


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    heads = {
        "answer_head": AnswerHead(ANSWERS, TEXT),
        "caption_head": CaptionHead(beam_size=2, max_tokens=5),
    }
    settings = InferenceSettings(min_size=64, max_size=96)
    return OpenVocabularyPredictor.from_model(tiny_glipv2(**heads), settings)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_an_answer_and_the_boxes_of_the_question(predictor, picture):
    found = ask(predictor, picture, " Is the red  dog on a bench? ")
    assert found.text == "Is the red dog on a bench?"
    sample = {"image": predictor.resized(picture), "question": found.text, "supervision": "vqa"}
    [expected] = predictor.model.answer([sample])
    assert found.answers == expected["answers"]
    assert found.probabilities == expected["probabilities"]
    assert sorted(found.probabilities, reverse=True) == found.probabilities
    boxes = predictor(picture, vocabulary=CaptionPhrases.find(found.text))
    assert len(boxes) > 0
    assert torch.equal(found.instances.pred_boxes.tensor, boxes.pred_boxes.tensor)
    rows = found.phrases()
    assert {row["phrase"] for row in rows} <= {"red dog", "bench"}
    assert rows[0]["score"] == boxes.scores[0].item()
    figure = draw_grounded(found)
    assert figure.shape[0] > picture.shape[0] + 50
    assert figure.dtype == np.uint8


def test_a_caption_and_the_boxes_of_its_phrases(predictor, picture):
    found = describe(predictor, picture)
    [expected] = predictor.model.caption([{"image": predictor.resized(picture)}])
    assert (found.text, found.log_probability) == (
        expected["caption"],
        expected["log_probability"],
    )
    greedy = describe(predictor, picture, beam_size=1)
    [expected] = predictor.model.caption([{"image": predictor.resized(picture)}], 1)
    assert greedy.text == expected["caption"]
    assert draw_grounded(found).shape[0] > picture.shape[0]


@pytest.mark.parametrize("question", ["why?", "何?", "ما هذا؟", "?5"])
def test_questions_without_phrases_and_in_other_scripts(predictor, picture, question):
    found = ask(predictor, picture, question)
    assert len(found.answers) == len(ANSWERS)
    assert isinstance(found.phrases(), list)
    draw_grounded(found)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "has no words"),
        (" ?! ", "has no words"),
        ("is there a dog " * 400, "6000 characters"),
        ("何 " * 240, "480 characters, which is more than this model reads"),
    ],
)
def test_questions_that_are_refused(predictor, picture, question, message):
    """The last one has few characters and many tokens."""
    with pytest.raises(UserError, match=message) as error:
        ask(predictor, picture, question)
    assert len(str(error.value)) < 300


def test_models_that_have_not_learnt_to(picture):
    settings = InferenceSettings(min_size=64, max_size=96)
    glip = OpenVocabularyPredictor.from_model(tiny_glip(), settings)
    with pytest.raises(UserError, match="neither answers questions nor writes captions"):
        ask(glip, picture, "is there a dog?")
    plain = OpenVocabularyPredictor.from_model(tiny_glipv2(), settings)
    with pytest.raises(UserError, match="no answer_head"):
        ask(plain, picture, "is there a dog?")
    with pytest.raises(UserError, match="no caption_head"):
        describe(plain, picture)


def test_a_tiny_image(predictor):
    found = ask(predictor, np.zeros((1, 1, 3), np.uint8), "is there a dog?")
    assert all(np.isfinite(found.probabilities))
    draw_grounded(found)
