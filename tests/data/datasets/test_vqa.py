"""Questions in the format of VQA v2, right and wrong."""

import json

import pytest

from detclip2.data.datasets.vqa import read_answers, vqa_answers, vqa_records
from detclip2.data.skips import SkipCounter
from detclip2.data.text.clean import has_words
from detclip2.utils.errors import UserError


def question(number, text="is there a dog?", image_id=9):
    return {"image_id": image_id, "question": text, "question_id": number}


def annotation(number, *answers, **more):
    people = [{"answer": answer, "answer_id": i} for i, answer in enumerate(answers)]
    return {"question_id": number, "answers": people, **more}


@pytest.fixture
def read(tmp_path):
    def read_files(questions, annotations, counter=None, **arguments):
        paths = [tmp_path / "questions.json", tmp_path / "annotations.json"]
        paths[0].write_text(json.dumps(questions), encoding="utf-8")
        paths[1].write_text(json.dumps(annotations), encoding="utf-8")
        return vqa_records(*map(str, paths), "images", counter=counter, **arguments)

    return read_files


def test_a_record(read):
    questions = {"data_subtype": "val2014", "questions": [question(90, " Which colour\tis it? ")]}
    people = ["red"] * 8 + ["Dark red", "red."]
    kinds = {"question_type": "which", "answer_type": "other"}
    [record] = read(questions, {"annotations": [annotation(90, *people, **kinds)]})
    assert record == {
        "file_name": "images/COCO_val2014_000000000009.jpg",
        "image_id": 9,
        "question_id": 90,
        "question": "Which colour is it?",
        "answers": {"red": pytest.approx(1.0), "dark red": pytest.approx(0.3)},
        "people_answers": people,
        **kinds,
    }


def test_a_server_keeps_the_answers(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"questions": [question(1)]}), encoding="utf-8")
    [record] = vqa_records(str(path), None, "images", file_name="{id}.jpg")
    assert record["file_name"] == "images/9.jpg"
    assert "answers" not in record


def test_what_cannot_be_used_is_counted(read):
    questions = [
        question(1),
        question(2, "??? !"),
        question(3, "これは何ですか"),
        question(1, "again"),
        question(4),
        question(5),
        question(6, ["a list"]),
        {"question": "which image?", "question_id": 7},
        question(8, image_id="nine"),
        question(9, image_id="\0"),
        "no object",
    ]
    annotations = [
        annotation(1, "yes"),
        annotation(2, "yes"),
        annotation(3, "犬"),
        annotation(5),
        {"question_id": 4, "answers": "yes"},
        [],
    ]
    counter = SkipCounter()
    records = read({"questions": questions}, {"annotations": annotations}, counter)
    assert [record["question_id"] for record in records] == [1, 3]
    assert counter.counts() == {
        "annotation-duplicate": 1,
        "question-without-words": 1,
        "question-unanswered": 2,
        "record-malformed": 8,
    }


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({}, "has no key 'questions'"),
        ({"questions": {}}, "not a list"),
        ({"questions": []}, "no question with an answer"),
        ({"questions": [question(1, image_id="../../secret")]}, "secret"),
    ],
)
def test_files_of_another_format_are_refused(read, questions, message):
    with pytest.raises(UserError, match=message):
        read(questions, {"annotations": [annotation(1, "yes")]}, file_name="{id}.jpg")


def test_a_format_of_file_names_that_does_not_fit(read):
    files = {"questions": [question(1)]}, {"annotations": [annotation(1, "yes")]}
    with pytest.raises(UserError, match="no format of id"):
        read(*files, file_name="{number}.jpg")


def test_the_list_of_answers(tmp_path):
    path = tmp_path / "annotations.json"
    many = [annotation(i, "yes", "Yes", "no") for i in range(4)]
    few = [annotation(10 + i, "a cat", "a cat", "dog") for i in range(2)]
    path.write_text(json.dumps({"annotations": many + few}), encoding="utf-8")
    assert vqa_answers(str(path), at_least=3) == ["yes"]
    assert vqa_answers([str(path), str(path)], at_least=3) == ["yes", "cat"]
    with pytest.raises(UserError, match="9 times"):
        vqa_answers(str(path))


def test_a_file_of_answers(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("yes\nno\n\n 2 \n", encoding="utf-8")
    assert read_answers(str(path)) == ["yes", "no", "2"]
    path.write_text("yes\nno\nyes\n", encoding="utf-8")
    with pytest.raises(UserError, match="twice"):
        read_answers(str(path))
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="no answer"):
        read_answers(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        read_answers(str(tmp_path / "none.txt"))


def test_words_of_any_script():
    assert has_words("a?")
    assert has_words("5")
    assert has_words("何")
    assert not has_words(" ?!… ")
