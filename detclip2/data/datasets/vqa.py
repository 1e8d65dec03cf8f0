"""Questions about images in the format of VQA v2: a json of questions and one of answers.

A record has an image, ``question_id``, ``question``, ``question_type`` and ``answer_type``,
``answers`` (normalised answer -> its score, 0 to 1) and ``people_answers``, as people gave them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detclip2.data.io.coco_json import read_json
from detclip2.data.io.coco_values import id_of
from detclip2.data.skips import SkipCounter
from detclip2.data.text.answers import answer_scores, frequent_answers
from detclip2.data.text.clean import clean_phrase, has_words
from detclip2.utils.errors import UserError, shown
from detclip2.utils.paths import FolderOfFiles


def vqa_records(
    questions_json: str,
    annotations_json: str | None,
    image_root: str,
    file_name: str = "COCO_{subset}_{id:012d}.jpg",
    counter: SkipCounter | None = None,
) -> list[dict[str, Any]]:
    """One record for each question with an answer.

    Args:
        questions_json: has ``questions`` (``image_id``, ``question``, ``question_id``) and
            ``data_subtype``, such as "val2014".
        annotations_json: has ``annotations`` (``question_id``, ``answers`` of ten people, with
            ``answer``; and ``question_type``, ``answer_type``). None: questions of a server, whose
            answers are not published.
        image_root: the folder of the images.
        file_name: format string of an image's name, with ``id``, and ``subset``, which is
            ``data_subtype``.
        counter: counts questions without words, without answers, or that are no questions.

    Raises:
        UserError: a file is missing or not in this format, or no question is left.
    """
    counter = counter or SkipCounter("VQA")
    _check_format(file_name)
    folder = FolderOfFiles(image_root)
    content = read_json(questions_json, ("questions",))
    answers = None if annotations_json is None else _answers(annotations_json, counter)
    subset = str(content.get("data_subtype", ""))
    records: dict[int | str, dict[str, Any]] = {}
    for entry in _entries(content["questions"], questions_json, "questions"):
        where = f"{questions_json}: question {shown(_get(entry, 'question_id'))}"
        if not isinstance(entry, dict) or not isinstance(entry.get("question"), str):
            counter.add("record-malformed", f"{where} has no text")
            continue
        if not entry.keys() >= {"image_id", "question_id"}:
            counter.add("record-malformed", f"{where} has no image_id or no question_id")
            continue
        question, question_id = clean_phrase(entry["question"]), id_of(entry["question_id"])
        image_id = id_of(entry["image_id"])
        name = _image_name(file_name, subset, image_id)
        if name is None:
            counter.add("record-malformed", f"{where} has the image_id {shown(image_id)}")
        elif not has_words(question):
            counter.add("question-without-words", f"{where}: {entry['question'][:80]!r}")
        elif question_id in records:
            counter.add("annotation-duplicate", where)
        elif answers is not None and question_id not in answers:
            counter.add("question-unanswered", where)
        else:
            records[question_id] = {
                "file_name": folder.path(name),
                "image_id": image_id,
                "question_id": question_id,
                "question": question,
                **(answers[question_id] if answers is not None else {}),
            }
    counter.log()
    if not records:
        raise UserError(f"{questions_json}: there is no question with an answer")
    return list(records.values())


def _answers(path: str, counter: SkipCounter) -> dict[int | str, dict[str, Any]]:
    """Id of a question -> what a record has of its annotation."""
    found: dict[int | str, dict[str, Any]] = {}
    for entry in _entries(read_json(path, ("annotations",))["annotations"], path, "annotations"):
        question_id = _get(entry, "question_id")
        texts = [_get(one, "answer") for one in _list(_get(entry, "answers"))]
        given = [text for text in texts if isinstance(text, str)]
        scores = answer_scores(given)
        if question_id is None or not scores:
            sentence = f"{path}: the annotation of question {shown(question_id)} has no answer"
            counter.add("record-malformed", sentence)
            continue
        found[id_of(question_id)] = {
            "answers": scores,
            "people_answers": given,
            "question_type": str(entry.get("question_type", "")),
            "answer_type": str(entry.get("answer_type", "")),
        }
    return found


def _check_format(file_name: str) -> None:
    try:
        file_name.format(id=0, subset="")
    except (KeyError, IndexError, ValueError) as error:
        sentence = f"file_name {file_name!r} is no format of id and subset: {error!r}"
        raise UserError(sentence) from error


def _image_name(file_name: str, subset: str, image_id: int | str) -> str | None:
    """The name of an image; None if its id makes none: no number for a format that wants one."""
    try:
        name = file_name.format(id=image_id, subset=subset)
    except ValueError:
        return None
    return None if "\0" in name else name  # which no file has in its name


def _entries(value: Any, path: str, part: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{path}: {part!r} is not a list of objects")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def vqa_answers(
    annotations_json: str | Sequence[str], at_least: int = 9, counter: SkipCounter | None = None
) -> list[str]:
    """The answers that a model chooses from: the frequent ones of training data.

    Args:
        annotations_json: one file or several; a question counts by the answer that most people
            gave, as in the list of 3,129 answers that papers use for VQA v2 (train and val).
        at_least: questions with the answer.
        counter: counts annotations without answers.

    Raises:
        UserError: a file is missing or not in this format, or no answer is that frequent.
    """
    paths = [annotations_json] if isinstance(annotations_json, str) else list(annotations_json)
    counter = counter or SkipCounter("VQA answers")
    people = [a["people_answers"] for path in paths for a in _answers(path, counter).values()]
    answers = frequent_answers([_most_common(given) for given in people], at_least)
    if not answers:
        raise UserError(f"{', '.join(paths)}: no answer occurs {at_least} times")
    return answers


def _most_common(answers: Iterable[str]) -> str:
    [(answer, _)] = Counter(answers).most_common(1)
    return answer


def read_answers(path: str) -> list[str]:
    """The answers of a text file, one a line, in order.

    Raises:
        UserError: the file cannot be read, has none, or has one twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of answers cannot be read: {error}") from error
    answers = [line.strip() for line in lines if line.strip()]
    if not answers or len(set(answers)) < len(answers):
        problem = "an answer is there twice" if answers else "there is no answer"
        raise UserError(f"{path}: {problem}; expected one answer a line")
    return answers
