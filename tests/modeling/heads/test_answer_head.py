"""The answer head: its loss against a loop, and its answers."""

import math

import pytest
import torch

from detclip2.modeling.heads.answer_head import AnswerHead
from detclip2.utils.errors import UserError

ANSWERS = ["yes", "no", "2", "red"]


@pytest.fixture
def head():
    torch.manual_seed(0)
    return AnswerHead(ANSWERS, text_width=8, weight=0.5)


@pytest.fixture
def tokens():
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))


SAMPLES = [
    {"answers": {"yes": 1.0, "no": 0.3}},
    {"answers": {"red": 0.6, "crimson": 1.0}},
    {"answers": {"crimson": 1.0}},
]


def test_the_loss_answer_by_answer(head, tokens):
    loss = head.losses(tokens, SAMPLES)["loss_answer"]
    expected = 0.0
    for logits, sample in zip(head(tokens).tolist(), SAMPLES, strict=True):
        for answer, logit in zip(ANSWERS, logits, strict=True):
            target, probability = sample["answers"].get(answer, 0.0), 1 / (1 + math.exp(-logit))
            expected -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
    assert loss.item() == pytest.approx(0.5 * expected / 3, rel=1e-5)


def test_parts_add_up(head, tokens):
    whole = head.losses(tokens, SAMPLES)["loss_answer"]
    parts = [head.losses(tokens[i : i + 1], SAMPLES[i : i + 1], 3) for i in range(3)]
    assert sum(part["loss_answer"] for part in parts).item() == pytest.approx(whole.item())


def test_only_the_start_token_is_read(head, tokens):
    other = tokens.clone()
    other[:, 1:] = 0
    assert torch.equal(head(tokens), head(other))


def test_the_best_answers(head, tokens):
    found = head.best(tokens, 2)
    probabilities = head(tokens).sigmoid()
    for row, own in zip(probabilities.tolist(), found, strict=True):
        order = sorted(range(4), key=lambda i: -row[i])[:2]
        assert own["answers"] == [ANSWERS[i] for i in order]
        assert own["probabilities"] == pytest.approx([row[i] for i in order])
    assert len(head.best(tokens)[0]["answers"]) == 4


def test_scores_out_of_range_and_no_known_answer(head, tokens):
    wrong = [{"answers": {"yes": 7.0}}, {"answers": {"yes": -1.0}}, {"answers": {"no": math.nan}}]
    right = [{"answers": {"yes": 1.0}}, {"answers": {}}, {"answers": {"crimson": 1.0}}]
    losses = [head.losses(tokens, samples)["loss_answer"].item() for samples in (wrong, right)]
    assert losses[0] == losses[1] < math.inf


@pytest.mark.parametrize("answers", [[], ["yes", "yes"]])
def test_lists_that_are_refused(answers):
    with pytest.raises(UserError, match=r"answer_head\.answers"):
        AnswerHead(answers)
