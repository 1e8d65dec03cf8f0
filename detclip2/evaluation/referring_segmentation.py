"""Referring segmentation: the pixels that a phrase means, as PhraseCut measures them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from pycocotools import mask as coco_masks

from detclip2.data.datasets.catalog import without_images
from detclip2.data.io.masks import rle_of
from detclip2.data.mappers.phrase_grounding import mentions_of
from detclip2.data.mappers.records import given_phrases, name_of
from detclip2.data.sample import SkipSample
from detclip2.data.text.clean import clean_phrase
from detclip2.evaluation.checks import check_masks
from detclip2.evaluation.phrase_grounding import Key, PhraseGroundingEvaluator, grounding_set
from detclip2.utils.errors import UserError

logger = logging.getLogger(__name__)

OVERLAPS = (0.5, 0.7, 0.9)


def referring_set(name: str, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Register grounding records with masks as the data set `name`; see `grounding_set`.

    Args:
        name: name in DatasetCatalog.
        records: those of `grounding_set`, whose annotations have ``segmentation``.

    Returns:
        The records of captions with a box for at least one phrase.

    Raises:
        UserError: as `grounding_set`; or a record cannot be read, or a phrase has no mask: phrases
            are never skipped, since the mean over a part of a set cannot be compared.
    """
    try:
        kept = grounding_set(name, records)
        masks = {
            (one["image_id"], one.get("sentence_id", 0)): _masks_of(one)
            for one in without_images(kept)
        }
    except SkipSample as error:
        raise UserError(f"{name}: {error.message}") from error
    MetadataCatalog.get(name).set(masks=masks)
    return kept


def _masks_of(record: dict[str, Any]) -> list[Any]:
    """The mask of each mention as RLE: all pixels of its objects."""
    size = record.get("height"), record.get("width")
    if None in size:
        raise UserError(f"{name_of(record)}: the record has no height and width, so no masks")
    masks_of: dict[str, list[Any]] = {}
    for annotation in record["annotations"]:
        for phrase in map(clean_phrase, given_phrases(annotation, record) or ()):
            try:
                rle = rle_of(annotation.get("segmentation"), size)  # type: ignore[arg-type]
            except ValueError as error:
                raise UserError(
                    f"{name_of(record)}: the mask of {phrase[:80]!r} cannot be read: {error}"
                ) from error
            masks_of.setdefault(phrase, []).append(rle)
    return [coco_masks.merge(masks_of[mention.phrase]) for mention in mentions_of(record)]


class ReferringSegmentationEvaluator(PhraseGroundingEvaluator):
    """Mean and cumulative IoU of the masks of phrases, and the recall of their boxes.

    The mask of a phrase is all masks of its detections whose score reaches a threshold, and that of
    the best one if none does. As in PhraseCut's evaluation, a phrase without a common pixel has an
    IoU of 0, also if its true mask is empty. ``masks`` has, in percent:

    - ``mIoU``: the mean over phrases of intersection over union;
    - ``cIoU``: all intersections over all unions, in which large objects count most;
    - ``Pr@0.5``, ...: the share of phrases with an IoU above 0.5, ...

    Args:
        dataset_name: registered by `referring_set`.
        output_dir: folder for ``referring_results.json``, and the files of
            `PhraseGroundingEvaluator`.
        score_threshold: from 0 to 1; None: the best detection alone, for phrases that mean one
            object (RefCOCO). The threshold of GLIPv2 on PhraseCut is not known.
        whole_captions: see `PhraseGroundingEvaluator`.

    Raises:
        UserError: the data set is not registered by `referring_set`.
    """

    best_metric = "masks/mIoU"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        score_threshold: float | None = 0.3,
        whole_captions: bool = True,
    ) -> None:
        super().__init__(dataset_name, output_dir, whole_captions=whole_captions)
        if not hasattr(MetadataCatalog.get(dataset_name), "masks"):
            raise UserError(f"{dataset_name!r} is not registered by referring_set")
        self.masks: dict[Key, list[Any]] = MetadataCatalog.get(dataset_name).masks
        self.score_threshold = score_threshold
        kept = "the best" if score_threshold is None else f"all of score >= {score_threshold:g}"
        self.protocol = replace(
            self.protocol,
            metric=f"{self.protocol.metric}; mean and cumulative IoU of masks ({kept})",
        )

    def reset(self) -> None:
        """Forget all detections."""
        super().reset()
        self._areas: list[tuple[int, int]] = []

    def add(self, key: Key, instances: Instances) -> None:
        """Add the detections of a caption.

        Raises:
            UserError: the model gives no masks, or of another size; see also
                `PhraseGroundingEvaluator.add`.
        """
        super().add(key, instances)
        check_masks(instances)
        for label, truth in zip(self.classes_of(key), self.masks[key], strict=True):
            found = self._mask(instances[instances.pred_classes == label])
            true = coco_masks.decode(truth).astype(bool)
            if found.shape != true.shape:
                raise UserError(
                    f"masks of image {key[0]} are {found.shape}, but the image is {true.shape}"
                )
            self._areas.append((int((found & true).sum()), int((found | true).sum())))

    def _mask(self, detections: Instances) -> np.ndarray:
        """The mask of a phrase from its detections, (H, W) bool."""
        masks, scores = detections.pred_masks.numpy(), detections.scores.numpy()
        if not len(scores):
            return np.zeros(detections.image_size, dtype=bool)
        chosen = scores == scores.max()
        if self.score_threshold is None:
            chosen[chosen.argmax() + 1 :] = False
        else:
            chosen |= scores >= self.score_threshold
        return masks[chosen].any(axis=0)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Those of `PhraseGroundingEvaluator`, and {"masks": {"mIoU": ..., "cIoU": ...}}.

        Raises:
            UserError: see `PhraseGroundingEvaluator.evaluate`.
        """
        results = super().evaluate()
        shares = self.gather(self._areas)
        if results is None or shares is None:
            return None
        areas = np.array([pair for share in shares for pair in share])
        results["masks"] = mask_metrics(areas[:, 0], areas[:, 1])
        logger.info(
            "masks: %s", {name: round(value, 2) for name, value in results["masks"].items()}
        )
        self.write("referring_results.json", results)
        return results


def mask_metrics(intersections: np.ndarray, unions: np.ndarray) -> dict[str, float]:
    """The metrics of `ReferringSegmentationEvaluator`, in percent.

    Args:
        intersections: (P,) px, of P phrases, at least one.
        unions: (P,) px.
    """
    iou = intersections / np.maximum(unions, 1)
    return {
        "mIoU": float(100 * iou.mean()),
        "cIoU": float(100 * intersections.sum() / max(unions.sum(), 1)),
        **{f"Pr@{overlap}": float(100 * (iou > overlap).mean()) for overlap in OVERLAPS},
    }
