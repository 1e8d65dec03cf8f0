"""Answers of VQA: their normal form, and scores against a loop over people."""

import random

import pytest

from detclip2.data.text.answers import (
    answer_accuracy,
    answer_scores,
    frequent_answers,
    normalized_answer,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        (" two \n dogs.", "2 dogs"),
        ("None", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("a red apple", "red apple"),
        ("The", ""),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("U.S.", "us"),
        ("1,000", "1000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("what?!", "what"),
        ("dont", "don't"),
        ("couldntve", "couldn't've"),
        ("she'dve", "she'd've"),
        ("Im", "i'm"),
        ("were", "were"),
        ("dog's", "dog's"),
        ("10:30", "10:30"),
        ("犬", "犬"),
        ("نعم", "نعم"),
        ("", ""),
        ("?", ""),
    ],
)
def test_normal_form(answer, expected):
    assert normalized_answer(answer) == expected
    assert normalized_answer(expected) == expected


def slow_accuracy(answer, people):
    """The official protocol, person by person."""
    if len(people) == 1:
        return float(answer == people[0])
    accuracies = []
    for aside in range(len(people)):
        others = [given for i, given in enumerate(people) if i != aside]
        accuracies.append(min(others.count(answer) / 3, 1))
    return sum(accuracies) / len(accuracies)


@pytest.mark.parametrize("people", [10, 9, 4, 3, 2, 1])
def test_scores_are_those_of_the_official_protocol(people):
    draw = random.Random(people)
    for _ in range(50):
        given = [draw.choice(["red", "blue", "2", "dog"]) for _ in range(people)]
        scores = answer_scores(given)
        assert scores.keys() == set(given)
        for answer in [*scores, "cat"]:
            assert answer_accuracy(answer, given) == pytest.approx(slow_accuracy(answer, given))
            assert 0 <= scores.get(answer, 0) <= 1


def test_ten_people():
    """The values that papers list: 0.3, 0.6, 0.9 and 1."""
    people = ["red"] * 4 + ["blue"] * 3 + ["Green."] * 2 + ["the one"]
    scores = answer_scores(people)
    assert list(scores) == ["red", "blue", "green", "1"]
    assert list(scores.values()) == pytest.approx([1.0, 0.9, 0.6, 0.3])
    assert answer_accuracy("Green", people) == pytest.approx(0.6)
    assert answer_accuracy("purple", people) == 0.0


def test_answers_without_words_are_no_answers():
    assert answer_scores([]) == {}
    assert answer_scores(["", "a", "?"]) == {}
    assert answer_scores(["yes", ""]) == {"yes": pytest.approx(1 / 6)}


def test_frequent_answers():
    answers = ["yes"] * 3 + ["Two"] * 2 + ["2"] * 2 + ["no"] * 3 + ["a"] * 9 + ["cat"]
    assert frequent_answers(answers, 3) == ["2", "no", "yes"]
    assert frequent_answers(answers, 1) == ["2", "no", "yes", "cat"]
    assert frequent_answers(answers, 5) == []
