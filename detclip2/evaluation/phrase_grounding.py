"""Phrase grounding: recall R@k of the boxes of a caption's phrases, as in MDETR."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import Subset
from torchvision.ops.boxes import box_iou

from detclip2.data.datasets.catalog import register, without_images
from detclip2.data.mappers.phrase_grounding import Mention, mentions_of, vocabulary_of
from detclip2.data.text.clean import unique_phrases
from detclip2.evaluation.checks import add_once
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)

Key = tuple[Any, int]
"""The id of an image, and the number of a sentence about it."""
Found = tuple[list[list[float]], list[float]]
"""Boxes found for a phrase, XYXY px, the best first, and their scores."""


def grounding_set(name: str, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Register grounding records as the data set `name`, replacing one of that name.

    Args:
        name: name in DatasetCatalog.
        records: any sequence of records for `mentions_of`.

    Returns:
        The records of captions with a box for at least one phrase.

    Raises:
        UserError: there are none, or a sentence appears twice.
    """
    mentions = _all_mentions(records)
    grounded = [i for i, of_caption in enumerate(mentions.values()) if of_caption]
    if not grounded:
        raise UserError(f"{name}: there is no caption with a phrase that has a box")
    kept: Any = records
    if len(grounded) < len(records):
        kept = Subset(kept, grounded)
    register(
        name,
        lambda: kept,
        evaluator_type="phrase_grounding",
        thing_classes=unique_phrases([m.phrase for some in mentions.values() for m in some]),
        mentions={key: of_caption for key, of_caption in mentions.items() if of_caption},
    )
    return kept


def _all_mentions(records: Any) -> dict[Key, list[Mention]]:
    found: dict[Key, list[Mention]] = {}
    for record in without_images(records):
        key = record["image_id"], record.get("sentence_id", 0)
        if key in found:
            raise UserError(f"sentence {key[1]} of image {key[0]} is there twice")
        found[key] = mentions_of(record)
    return found


class PhraseGroundingEvaluator(StreamingEvaluator):
    """Recall of phrases: R@k is the share of phrases with a right box among the best k.

    Both protocols of MDETR (arXiv 2104.12763), on the same detections:

    - ``any_box``: a box is right if its IoU with any of the phrase's boxes is at least 0.5;
    - ``merged_boxes``: the same with the smallest box around all of them ("the crowd" is one box).

    A phrase counts once per caption; phrases without a box do not count. A phrase of several types
    counts for each of them, as "R@1-people" and so on. Numbers are percentages.

    The vocabulary of an image is its caption's phrases (`MentionMapper`); the model should keep the
    best boxes of every phrase (`TopKPerPhrase`). GLIP's protocol is `whole_captions`, and the best
    100 boxes of a caption.

    Args:
        dataset_name: registered by `grounding_set`.
        output_dir: folder for ``grounding_results.json``, and ``grounding_predictions.json`` in the
            format of MDETR's evaluation: image_id, sentence_id, and for each phrase with a box its
            detected boxes, the best first, with scores.
        top_k: values of k.
        iou_threshold: least IoU of a right box.
        whole_captions: as that of the mapper: each mention has boxes of its own, also if the
            caption has the phrase several times.

    Raises:
        UserError: the data set is not registered by `grounding_set`.
    """

    best_metric = "any_box/R@1"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        top_k: Sequence[int] = (1, 5, 10),
        iou_threshold: float = 0.5,
        whole_captions: bool = False,
    ) -> None:
        if not hasattr(MetadataCatalog.get(dataset_name), "mentions"):
            raise UserError(f"{dataset_name!r} is not registered by grounding_set")
        self.mentions: dict[Key, list[Mention]] = MetadataCatalog.get(dataset_name).mentions
        self.top_k = tuple(top_k)
        self.iou_threshold = iou_threshold
        self.whole_captions = whole_captions
        protocol = Protocol(
            dataset_name,
            _fingerprint(self.mentions),
            f"{max(self.top_k)} of a phrase",
            f"recall at IoU >= {iou_threshold:g}, any box and merged boxes",
            "whole captions" if whole_captions else "the phrases of each caption, as annotated",
        )
        super().__init__(protocol, self.mentions.keys(), dataset_name, output_dir=output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._found: dict[Key, list[Found]] = {}

    def key_of(self, image: Mapping[str, Any]) -> Key:
        """The image's id and the number of the sentence.

        Raises:
            UserError: the vocabulary of the sample is not the phrases of its caption.
        """
        key = image["image_id"], image.get("sentence_id", 0)
        asked = image.get("vocabulary")
        if asked is not None and key in self.mentions:
            expected = self._vocabulary_of(key)
            if list(asked) != expected:
                raise UserError(
                    f"the model is asked for {list(asked)} in image {key[0]}, sentence {key[1]}; "
                    f"expected the phrases of the caption, {expected}"
                )
        return key

    def add(self, key: Key, instances: Instances) -> None:
        """Add the detections of a caption.

        Raises:
            UserError: the caption was added before.
        """
        _add(self._found, {key: self._found_for(key, instances)})

    def _found_for(self, key: Key, instances: Instances) -> list[Found]:
        best_first = instances[instances.scores.argsort(descending=True, stable=True)]
        found = []
        for label in self.classes_of(key):
            own = best_first[best_first.pred_classes == label]
            own = own[: max(self.top_k)]
            found.append((own.pred_boxes.tensor.tolist(), own.scores.tolist()))
        return found

    def classes_of(self, key: Key) -> list[int]:
        """The label of each mention of a caption in its vocabulary."""
        mentions = self.mentions[key]
        if self.whole_captions:
            return list(range(len(mentions)))
        number = {p.casefold(): i for i, p in enumerate(self._vocabulary_of(key))}
        return [number[mention.phrase.casefold()] for mention in mentions]

    def _vocabulary_of(self, key: Key) -> list[str]:
        mentions = self.mentions[key]
        return [m.phrase for m in mentions] if self.whole_captions else vocabulary_of(mentions)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"any_box": {"R@1": ...}, "merged_boxes": {...}} on the main process.

        Raises:
            UserError: a caption was not evaluated, or evaluated twice.
        """
        shares = self.gather(self._found)
        if shares is None:
            return None
        found: dict[Key, list[Found]] = {}
        for share in shares:
            _add(found, share)
        missing = [key for key in self.mentions if key not in found]
        if missing:
            raise UserError(
                f"{self.protocol.dataset}: {len(missing)} of {len(self.mentions)} captions were "
                f"not evaluated, the first is sentence {missing[0][1]} of image {missing[0][0]}"
            )
        results = {
            "any_box": self._recall(found, merge=False),
            "merged_boxes": self._recall(found, merge=True),
        }
        self._report(results)
        if self._folder is not None:
            self._write(self._folder, found, results)
        return results

    def _recall(self, found: dict[Key, list[Found]], merge: bool) -> dict[str, float]:
        ranks: dict[str, list[float]] = {}  # by type; "" is all
        for key, mentions in self.mentions.items():
            for mention, (boxes, _) in zip(mentions, found[key], strict=True):
                targets = torch.tensor(mention.boxes, dtype=torch.float64)
                if merge:
                    targets = merged(targets)
                rank = first_right(
                    torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
                    targets,
                    self.iou_threshold,
                )
                for kind in ("", *mention.types):
                    ranks.setdefault(kind, []).append(rank)
        return {
            _metric(k, kind): 100 * sum(rank < k for rank in of_kind) / len(of_kind)
            for kind, of_kind in sorted(ranks.items())
            for k in self.top_k
        }

    def _report(self, results: dict[str, dict[str, float]]) -> None:
        counts, ks = self._counts(), self.top_k
        rows = [
            [kind or "all", number, *(r[_metric(k, kind)] for r in results.values() for k in ks)]
            for kind, number in counts.items()
        ]
        header = [f"{p.split('_')[0]} R@{k}" for p in results for k in ks]
        table = tabulate(rows, ["type", "phrases", *header], "pipe", floatfmt=".2f")
        logger.info("%s\n%s", self.protocol, table)

    def _counts(self) -> dict[str, int]:
        """Number of phrases of each type; "" counts all."""
        counts: dict[str, int] = {}
        for mention in (m for of_caption in self.mentions.values() for m in of_caption):
            for kind in ("", *mention.types):
                counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items()))

    def _write(
        self, folder: Path, found: dict[Key, list[Found]], results: dict[str, dict[str, float]]
    ) -> None:
        counts = {kind or "all": number for kind, number in self._counts().items()}
        self.write("grounding_results.json", {**results, "phrases": counts})
        predictions = [
            {
                "image_id": image_id,
                "sentence_id": sentence_id,
                "boxes": [boxes for boxes, _ in found[image_id, sentence_id]],
                "scores": [scores for _, scores in found[image_id, sentence_id]],
            }
            for image_id, sentence_id in self.mentions
        ]
        content = json.dumps(predictions).encode()
        path = folder / "grounding_predictions.json"
        write_whole(path, lambda file: file.write(content))


def first_right(boxes: Tensor, targets: Tensor, iou_threshold: float = 0.5) -> float:
    """The rank, from 0, of the first box that is right; infinity if none is.

    Args:
        boxes: (any number, 4) XYXY, the best first.
        targets: (N, 4) XYXY.
        iou_threshold: least IoU of a right box with any target.
    """
    right = (box_iou(boxes, targets) >= iou_threshold).any(dim=1).nonzero()
    return right[0].item() if len(right) else math.inf


def merged(boxes: Tensor) -> Tensor:
    """(N, 4) XYXY -> (1, 4), the smallest box around all."""
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]


def _metric(k: int, kind: str) -> str:
    return f"R@{k}-{kind}" if kind else f"R@{k}"


def _add(found: dict[Key, list[Found]], more: dict[Key, list[Found]]) -> None:
    add_once(found, more, lambda key: f"sentence {key[1]} of image {key[0]} was evaluated twice")


def _fingerprint(mentions: dict[Key, list[Mention]]) -> str:
    """A fingerprint of the annotations for the protocol; equal for equal captions and boxes."""
    content = json.dumps(sorted(([*key, m] for key, m in mentions.items()), key=str))
    count = sum(map(len, mentions.values()))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{count} phrases of {len(mentions)} captions, sha256 {digest}"
