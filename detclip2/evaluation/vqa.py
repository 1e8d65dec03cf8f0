"""Visual question answering: accuracy by the official protocol of VQA, beside what guesses give."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import MetadataCatalog

from detclip2.data.datasets.catalog import register, without_images
from detclip2.data.io.coco_values import id_of
from detclip2.data.text.answers import normalized_answer
from detclip2.evaluation.checks import add_once, check_known
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json

logger = logging.getLogger(__name__)


class Truth(NamedTuple):
    """What is known of a question."""

    question: str
    question_type: str
    answer_type: str
    answers: Mapping[str, float] | None
    """Normalised answer -> its accuracy, 0 to 1; None if a server keeps the answers."""


def question_set(name: str, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Register records with questions as the data set `name`, replacing one of that name.

    Args:
        name: name in DatasetCatalog.
        records: as of `detclip2.data.datasets.vqa`.

    Returns:
        The records.

    Raises:
        UserError: there are none, or a question appears twice.
    """
    truths: dict[Any, Truth] = {}
    for record in without_images(records):
        key = id_of(record["question_id"])
        if key in truths:
            raise UserError(f"{name}: question {key} is there twice")
        truths[key] = truth_of(record)
    if not truths:
        raise UserError(f"{name}: there is no question")
    register(name, lambda: records, evaluator_type="vqa", thing_classes=[], truths=truths)
    return records


def truth_of(record: Mapping[str, Any]) -> Truth:
    """What a record knows of its question."""
    answers = record.get("answers")
    if answers is not None:
        answers = {normalized_answer(answer): score for answer, score in answers.items()}
    kinds = (record.get("question_type", ""), record.get("answer_type", ""))
    return Truth(record["question"], *kinds, answers)


class AnswerPrior:
    """Answers without an image, by what is most often right in training data.

    Args:
        records: of training, with answers.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for record in without_images(records):
            truth = truth_of(record)
            for group in self._groups(truth).items():
                scores = self._scores[group]
                for answer, score in (truth.answers or {}).items():
                    scores[answer] = scores.get(answer, 0.0) + score

    @staticmethod
    def _groups(truth: Truth) -> dict[str, str]:
        return {
            "one answer to all": "",
            "one to each type": truth.question_type,
            "one to each question": truth.question.casefold(),
        }

    def answers(self, truth: Truth) -> dict[str, str]:
        """Way to guess -> the answer; that of a coarser way if training has no such question."""
        found: dict[str, str] = {}
        answer = ""
        for group in self._groups(truth).items():
            scores = self._scores.get(group)
            answer = max(scores, key=lambda one: (scores[one], one)) if scores else answer
            found[group[0]] = answer
        return found


class VQAEvaluator(StreamingEvaluator):
    """Accuracy of answers in percent: overall, by type of answer, and of guesses without images.

    The accuracy of an answer is that of `detclip2.data.text.answers.answer_scores`: the official
    protocol, with ten people's answers. The official program averages over types of answers with
    the last of the ten values of a question instead of their mean; here all averages are of means.

    The baseline of answer priors (`AnswerPrior`) is measured on the same questions. That of a model
    without images is an ordinary evaluation with ``blind=True`` of the mappers.

    Args:
        dataset_name: registered by `question_set`.
        prior_records: records of the training data, for the baseline; None: without it.
        output_dir: folder for ``vqa_results.json``, and ``vqa_answers.json`` in the format of the
            benchmark's server: question_id and answer.

    Raises:
        UserError: the data set is not registered by `question_set`.
    """

    best_metric = "vqa/accuracy"

    def __init__(
        self,
        dataset_name: str,
        prior_records: Sequence[dict[str, Any]] | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        if not hasattr(MetadataCatalog.get(dataset_name), "truths"):
            raise UserError(f"{dataset_name!r} is not registered by question_set")
        self.truths: dict[Any, Truth] = MetadataCatalog.get(dataset_name).truths
        self.prior = None if prior_records is None else AnswerPrior(prior_records)
        content = json.dumps(sorted(self.truths.items(), key=str))
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        protocol = Protocol(
            dataset_name,
            f"{len(self.truths)} questions, sha256 {digest}",
            "one answer a question",
            "VQA accuracy, min(n / 3, 1) averaged over all but one person",
            "the questions",
        )
        super().__init__(protocol, self.truths.keys(), dataset_name, output_dir=output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all answers."""
        self._given: dict[Any, str] = {}

    def key_of(self, image: Mapping[str, Any]) -> Any:
        """The id of the question."""
        return id_of(image["question_id"])

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the answers of a batch.

        Args:
            inputs: with ``question_id``.
            outputs: with ``answers``, best first.

        Raises:
            UserError: a question is not in the data set, or was added before.
        """
        for image, output in zip(inputs, outputs, strict=True):
            key = self.key_of(image)
            check_known(key, self._image_ids, self._annotations_file)
            _add(self._given, {key: output["answers"][0]})

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"vqa": {"accuracy", "accuracy-TYPE", "prior accuracy"}} on the main process.

        A question that was not answered counts as wrong. The accuracy of the prior is that of the
        best way to guess. Without published answers the results are empty, and the file for the
        server is all.

        Raises:
            UserError: a question was answered twice.
        """
        shares = self.gather(self._given)
        if shares is None:
            return None
        given: dict[Any, str] = {}
        for share in shares:
            _add(given, share)
        if missing := [key for key in self.truths if key not in given]:
            logger.warning(
                "%s: %d of %d questions were not answered, and count as wrong",
                *(self.protocol.dataset, len(missing), len(self.truths)),
            )
        given = {key: given.get(key, "") for key in self.truths}
        results = {"vqa": self._accuracies(given)}
        self.write("vqa_results.json", results)
        if self._folder is not None:
            rows = [{"question_id": key, "answer": given[key]} for key in self.truths]
            write_json(self._folder / "vqa_answers.json", rows)
        return results

    def _accuracies(self, given: Mapping[Any, str]) -> dict[str, float]:
        known = {key: truth for key, truth in self.truths.items() if truth.answers is not None}
        if not known:
            return {}
        by_type: dict[str, list[float]] = defaultdict(list)
        for key, truth in known.items():
            accuracy = _accuracy(given[key], truth)
            for kind in dict.fromkeys(("", truth.answer_type)):
                by_type[kind].append(accuracy)
        found = {
            f"accuracy-{kind}" if kind else "accuracy": _percent(by_type[kind])
            for kind in sorted(by_type)
        }
        if self.prior is not None:
            guessed: dict[str, list[float]] = defaultdict(list)
            for truth in known.values():
                for way, answer in self.prior.answers(truth).items():
                    guessed[way].append(_accuracy(answer, truth))
            found["prior accuracy"] = max(map(_percent, guessed.values()))
        return found


def _accuracy(answer: str, truth: Truth) -> float:
    return (truth.answers or {}).get(normalized_answer(answer), 0.0)


def _percent(accuracies: Sequence[float]) -> float:
    return 100 * sum(accuracies) / len(accuracies)


def _add(given: dict[Any, str], more: Mapping[Any, str]) -> None:
    add_once(given, more, lambda key: f"question {key} was answered twice")
