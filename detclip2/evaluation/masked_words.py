"""Accuracy of masked words of captions, with the image and without it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from detclip2.evaluation.checks import check_known
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

WAYS = {"accuracy": "words", "without_image": "words_without_image"}
"""Name of a metric -> key of the model's output that it measures."""


class MaskedWordEvaluator(StreamingEvaluator):
    """The share of masked words that a model predicts, from the other words and the image.

    The image matters where the second accuracy, of the same weights and words with an image of one
    colour, is lower. A word of several tokens is right if all of them are; upper and lower case are
    the same. Words of phrases with a box have their own accuracies ("-boxed"): their things are in
    the image.

    Args:
        dataset_name: registered by `grounding_set`; its mapper is `MaskedWordMapper`.
        output_dir: folder for ``masked_words.json``; None writes nothing.
        distributed: add up the counts of all processes on the main one.

    Raises:
        UserError: the data set is not registered by `grounding_set`.
    """

    best_metric = "masked_words/accuracy"

    def __init__(
        self, dataset_name: str, output_dir: str | Path | None = None, distributed: bool = True
    ) -> None:
        mentions = getattr(MetadataCatalog.get(dataset_name), "mentions", None)
        if mentions is None:
            raise UserError(f"{dataset_name!r} is not registered by grounding_set")
        protocol = Protocol(
            dataset_name,
            f"{len(mentions)} captions",
            "1 of a masked word",
            "accuracy of masked words, with the image and with one of a single colour",
            "captions with masked words",
        )
        super().__init__(protocol, mentions.keys(), dataset_name, distributed, output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all captions."""
        self._seen: list[Any] = []
        # For words outside and inside of boxed phrases: their number, and the right ones by `WAYS`.
        self._counts = np.zeros((2, 1 + len(WAYS)), dtype=np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the right words of a batch of captions.

        Args:
            inputs: from `MaskedWordMapper`.
            outputs: the keys of `WAYS`, each with a text for each masked word.

        Raises:
            UserError: a caption is not of the data set, or the output has no words.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            key = sample["image_id"], sample["sentence_id"]
            check_known(key, self._image_ids, self._annotations_file)
            if "words" not in output:
                raise UserError(
                    "the model does not predict masked words: expected a GLIPv2 with "
                    "model.masked_language"
                )
            self._seen.append(key)
            for i, (word, boxed) in enumerate(sample["masked_words"]):
                right = [output[way][i].casefold() == word.casefold() for way in WAYS.values()]
                self._counts[int(boxed)] += (1, *right)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"masked_words": {"accuracy", "without_image", "accuracy-boxed", ...}}, percent.

        NaN without words; None on processes other than the main one.

        Raises:
            UserError: no caption was evaluated, or one twice.
        """
        counts = self.sum_over_processes(self._counts, self._seen)
        if counts is None:
            return None
        results: dict[str, float] = {}
        for name, (number, *right) in {"": counts.sum(axis=0), "-boxed": counts[1]}.items():
            for way, of_way in zip(WAYS, right, strict=True):
                share = 100 * of_way / number if number else float("nan")
                results[f"{way}{name}"] = float(share)
        logger.info("%s; %d words", self.protocol, counts[:, 0].sum())
        self.write("masked_words.json", {"masked_words": results})
        return {"masked_words": results}
