"""Phrase grounding: is a phrase of the caption found where it is? Recall R@k, as MDETR counts."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import Subset
from torchvision.ops import box_iou

from detclip2.data.mappers.phrase_grounding import Mention, mentions_of, vocabulary_of
from detclip2.data.sample import unique_phrases
from detclip2.evaluation.checks import check_finite, check_known, write_results
from detclip2.evaluation.protocol import Protocol
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

logger = logging.getLogger(__name__)

Key = tuple[Any, int]
"""The id of an image, and the number of a sentence about it."""
Found = tuple[list[list[float]], list[float]]
"""The boxes found for a phrase, XYXY px, the best first, and their scores."""


def grounding_set(name: str, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Register grounding records as the data set `name`, for configs; one of that name is replaced.

    Args:
        name: in DatasetCatalog.
        records: see :func:`~detclip2.data.mappers.phrase_grounding.mentions_of`; any sequence.

    Returns:
        The records of captions in which a phrase has a box.

    Raises:
        UserError: there are none.
    """
    mentions = _all_mentions(records)
    grounded = [i for i, of_caption in enumerate(mentions.values()) if of_caption]
    if not grounded:
        raise UserError(f"{name}: there is no caption with a phrase that has a box")
    kept: Any = records
    if len(grounded) < len(records):
        kept = Subset(kept, grounded)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: kept)
    MetadataCatalog.get(name).set(
        evaluator_type="phrase_grounding",
        thing_classes=unique_phrases([m.phrase for some in mentions.values() for m in some]),
        mentions={key: of_caption for key, of_caption in mentions.items() if of_caption},
    )
    return kept


def _all_mentions(records: Any) -> dict[Key, list[Mention]]:
    # Scenes that are drawn when they are asked for need not be drawn for this.
    plain = getattr(records, "records_without_images", lambda: records)()
    found: dict[Key, list[Mention]] = {}
    for record in plain:
        key = record["image_id"], record.get("sentence_id", 0)
        if key in found:
            raise UserError(f"sentence {key[1]} of image {key[0]} is there twice")
        found[key] = mentions_of(record)
    return found


class PhraseGroundingEvaluator(DatasetEvaluator):
    """Recall of phrases: R@k is the share of phrases of which one of the best k boxes is right.

    Two protocols, both MDETR's (arXiv 2104.12763), both with the same detections:

    - ``any_box``: right is a box that has IoU >= 0.5 with any of the phrase's boxes;
    - ``merged_boxes``: with the smallest box around all of them ("the crowd" is one box).

    A phrase counts each time a caption has it. Phrases without a box do not count. A phrase of
    several types counts for each of them, in "R@1-people" and so on. Numbers are percentages.

    Detections are what the model finds with a caption's phrases as vocabulary
    (:class:`~detclip2.data.mappers.phrase_grounding.MentionMapper`); it should keep the best
    boxes of every phrase (:class:`~detclip2.modeling.postprocess.TopKPerPhrase`).

    Args:
        dataset_name: registered by :func:`grounding_set`.
        output_dir: where ``grounding_results.json`` goes, and ``grounding_predictions.json`` in
            the format of MDETR's evaluation: image_id, sentence_id, and for each phrase with a
            box its boxes, the best first; with their scores.
        top_k: the k of R@k.
        iou_threshold: from which IoU on a box is right.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        top_k: Sequence[int] = (1, 5, 10),
        iou_threshold: float = 0.5,
    ) -> None:
        if not hasattr(MetadataCatalog.get(dataset_name), "mentions"):
            raise UserError(f"{dataset_name!r} is not registered by grounding_set")
        self.mentions: dict[Key, list[Mention]] = MetadataCatalog.get(dataset_name).mentions
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.top_k = tuple(top_k)
        self.iou_threshold = iou_threshold
        self.protocol = Protocol(
            dataset=dataset_name,
            annotations=_print_of(self.mentions),
            prompts="the phrases of each caption, as annotated",
            detections=f"{max(self.top_k)} of a phrase",
            metric=f"recall at IoU >= {iou_threshold:g}, any box and merged boxes",
        )
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._found: dict[Key, list[Found]] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take in what was found in some images.

        Raises:
            UserError: a caption that the data set does not have, or comes twice; a score or box
                that is not finite.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            key = sample["image_id"], sample.get("sentence_id", 0)
            instances = output["instances"].to("cpu")
            check_known(key, self.mentions.keys(), self.protocol.dataset)
            check_finite(key, instances)
            _add(self._found, {key: self._found_for(key, instances)})

    def _found_for(self, key: Key, instances: Instances) -> list[Found]:
        number = {p.casefold(): i for i, p in enumerate(vocabulary_of(self.mentions[key]))}
        best_first = instances[instances.scores.argsort(descending=True, stable=True)]
        found = []
        for mention in self.mentions[key]:
            own = best_first[best_first.pred_classes == number[mention.phrase.casefold()]]
            own = own[: max(self.top_k)]
            found.append((own.pred_boxes.tensor.tolist(), own.scores.tolist()))
        return found

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"any_box": {"R@1": ...}, "merged_boxes": {...}} on the main process.

        Raises:
            UserError: no detections have come in for some caption.
        """
        shares = comm.gather(self._found)
        if not comm.is_main_process():
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
        if self.output_dir is not None:
            self._write(found, results)
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
        """How many phrases there are of each type; all of them under ""."""
        counts: dict[str, int] = {}
        for mention in (m for of_caption in self.mentions.values() for m in of_caption):
            for kind in ("", *mention.types):
                counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items()))

    def _write(self, found: dict[Key, list[Found]], results: dict[str, dict[str, float]]) -> None:
        assert self.output_dir is not None
        counts = {kind or "all": number for kind, number in self._counts().items()}
        path = self.output_dir / "grounding_results.json"
        write_results(path, self.protocol, {**results, "phrases": counts})
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
        path = self.output_dir / "grounding_predictions.json"
        write_whole(path, lambda file: file.write(content))


def first_right(boxes: Tensor, targets: Tensor, iou_threshold: float = 0.5) -> float:
    """The rank, from 0, of the first box that is right; infinity if none is.

    Args:
        boxes: (R, 4) XYXY, the best first.
        targets: (N, 4) XYXY.
        iou_threshold: right is an IoU of at least that with any target.
    """
    right = (box_iou(boxes, targets) >= iou_threshold).any(dim=1).nonzero()
    return right[0].item() if len(right) else math.inf


def merged(boxes: Tensor) -> Tensor:
    """(N, 4) XYXY -> (1, 4), the smallest box around all."""
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]


def _metric(k: int, kind: str) -> str:
    return f"R@{k}-{kind}" if kind else f"R@{k}"


def _add(found: dict[Key, list[Found]], more: dict[Key, list[Found]]) -> None:
    twice = found.keys() & more.keys()
    if twice:
        image_id, sentence_id = min(twice, key=str)
        raise UserError(f"sentence {sentence_id} of image {image_id} was evaluated twice")
    found.update(more)


def _print_of(mentions: dict[Key, list[Mention]]) -> str:
    """What the annotations are, for the protocol; the same for the same captions and boxes."""
    content = json.dumps(sorted(([*key, m] for key, m in mentions.items()), key=str))
    count = sum(map(len, mentions.values()))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{count} phrases of {len(mentions)} captions, sha256 {digest}"
