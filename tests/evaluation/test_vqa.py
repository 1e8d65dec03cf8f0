"""Accuracy of answers on hand-made cases, and what guesses without images give."""

import json
import logging

import pytest

from detclip2.data.text.answers import answer_scores
from detclip2.evaluation.vqa import AnswerPrior, VQAEvaluator, question_set, truth_of
from detclip2.utils.errors import UserError


def record(number, text, people, kind="other"):
    return {
        "image_id": 1,
        "question_id": number,
        "question": text,
        "question_type": text.split()[0],
        "answer_type": kind,
        "answers": answer_scores(people),
    }


RECORDS = [
    record(1, "is it red?", ["yes"] * 10, "yes/no"),
    record(2, "is it blue?", ["no"] * 8 + ["yes"] * 2, "yes/no"),
    record(3, "how many?", ["two"] * 3 + ["3"] * 7, "number"),
    record(4, "what is it?", ["a dog", "dog", "puppy", *["cat"] * 7]),
]


def evaluated(answers, tmp_path=None, **arguments):
    question_set("questions", RECORDS)
    evaluator = VQAEvaluator("questions", output_dir=tmp_path, **arguments)
    for number, answer in answers.items():
        evaluator.process([{"question_id": number}], [{"answers": [answer, "other"]}])
    return evaluator.evaluate()["vqa"]


def test_accuracy_by_hand(tmp_path):
    """1 and 0.6 right; 2 of 10 say "2": 0.9 with three; 2 of 10 say "dog"."""
    results = evaluated({1: "Yes", 2: "yes", 3: "2", 4: "the dog."}, tmp_path)
    assert results == {
        "accuracy": pytest.approx(100 * (1 + 0.6 + 0.9 + 0.6) / 4),
        "accuracy-yes/no": pytest.approx(80),
        "accuracy-number": pytest.approx(90),
        "accuracy-other": pytest.approx(60),
    }
    rows = json.loads((tmp_path / "vqa_answers.json").read_text("utf-8"))
    assert rows[3] == {"question_id": 4, "answer": "the dog."}
    written = json.loads((tmp_path / "vqa_results.json").read_text("utf-8"))
    assert written["vqa"] == results
    assert "4 questions" in written["protocol"]["annotations"]


def test_wrong_and_missing_answers_are_wrong(caplog):
    with caplog.at_level(logging.WARNING):
        results = evaluated({1: "no", 2: "perhaps"})
    assert results["accuracy"] == 0
    assert "2 of 4 questions were not answered" in caplog.text


def test_what_cannot_be_measured():
    question_set("questions", RECORDS)
    evaluator = VQAEvaluator("questions")
    evaluator.process([{"question_id": 1}], [{"answers": ["yes"]}])
    with pytest.raises(UserError, match="question 1 was answered twice"):
        evaluator.process([{"question_id": 1}], [{"answers": ["yes"]}])
    with pytest.raises(UserError, match="image 77"):
        evaluator.process([{"question_id": 77}], [{"answers": ["yes"]}])
    with pytest.raises(UserError, match="not registered"):
        VQAEvaluator("no_such_questions")
    with pytest.raises(UserError, match="twice"):
        question_set("questions", [RECORDS[0], RECORDS[0]])
    with pytest.raises(UserError, match="no question"):
        question_set("questions", [])


def test_questions_of_a_server_have_no_accuracy(tmp_path):
    open_question = {k: v for k, v in RECORDS[0].items() if k != "answers"}
    question_set("server", [open_question])
    evaluator = VQAEvaluator("server", output_dir=tmp_path)
    evaluator.process([{"question_id": 1}], [{"answers": ["yes"]}])
    assert evaluator.evaluate() == {"vqa": {}}
    assert json.loads((tmp_path / "vqa_answers.json").read_text("utf-8"))[0]["answer"] == "yes"


TRAINING = [
    record(1, "is it red?", ["no"] * 10),
    record(2, "is it red?", ["no"] * 10),
    record(3, "is it blue?", ["yes"] * 10),
    record(4, "is it new?", ["yes"] * 10),
    record(5, "is it old?", ["yes"] * 10),
    *(record(6 + i, "how many?", ["2"] * 10) for i in range(6)),
]


def test_priors():
    prior = AnswerPrior(TRAINING)

    def ways(text):
        return list(prior.answers(truth_of(record(0, text, ["x"]))).values())

    assert ways("is it red?") == ["2", "yes", "no"]
    assert ways("IS it red?")[2] == "no"
    assert ways("is it green?") == ["2", "yes", "yes"]
    assert ways("why?") == ["2", "2", "2"]
    assert list(AnswerPrior([]).answers(truth_of(RECORDS[0])).values()) == ["", "", ""]


def test_the_best_prior_is_reported():
    """By type: yes, yes, 2, 2 score 1, 0.6, 0.9, 0; by question: no, yes, 2, 2."""
    results = evaluated(dict.fromkeys(range(1, 5), "yes"), prior_records=TRAINING)
    assert results["prior accuracy"] == pytest.approx(100 * (1 + 0.6 + 0.9) / 4)


def test_the_prior_is_the_answer_with_the_highest_sum_of_accuracies():
    def asked(answers):
        return {"question_id": 0, "question": "What?", "answers": answers}

    prior = AnswerPrior([asked({"a": 0.3, "b": 1.0}), asked({"a": 0.3})])
    assert set(prior.answers(truth_of(asked({}))).values()) == {"b"}
