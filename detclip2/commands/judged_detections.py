"""The detections of a model in annotated images, each right or wrong."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from detclip2.data.text.clean import clean_phrase
from detclip2.evaluation.matching import match
from detclip2.finetuning.coco_check import OwnData
from detclip2.inference.calibration import Outcomes
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.results import to_coco
from detclip2.inference.vocabulary import Vocabulary

FLOOR = 0.05
"""The least score of the model that is judged."""
IMAGES_AT_ONCE = 200
"""Images whose detections are in memory as COCO's results."""


def labels_of_names(data: OwnData, names: Sequence[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Name of the annotations -> its label's position, by the name or else by a synonym of it."""
    position: dict[str, int] = {}  # of the labels that have no name yet
    for i, label in enumerate(vocabulary.labels):
        position.setdefault(clean_phrase(label).casefold(), i)
    synonyms = dict(zip((name.casefold() for name in data.names), data.synonyms, strict=True))
    found: dict[str, int] = {}
    for name in names:
        keys = (clean_phrase(one).casefold() for one in (name, *synonyms[name.casefold()]))
        if key := next((key for key in keys if key in position), None):
            found[name] = position.pop(key)
    return found


def content_of(content: Mapping[str, Any], label_of: Mapping[str, int]) -> dict[str, Any]:
    """Annotations of labels only, with the position of the label as the id of a category."""
    ids = {one["id"]: label_of.get(one["name"]) for one in content["categories"]}
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        "images": [
            {**image, **{key: [ids[i] for i in image[key] if ids[i] is not None]
                         for key in lists if key in image}}
            for image in content["images"]
        ],
        "annotations": [
            {**one, "category_id": ids[one["category_id"]]}
            for one in content["annotations"]
            if ids[one["category_id"]] is not None
        ],
        "categories": [{"id": label, "name": name} for name, label in label_of.items()],
    }  # fmt: skip


def outcomes_of(
    predictor: OpenVocabularyPredictor,
    content: Mapping[str, Any],
    image_root: Path,
    console: Console,
) -> Outcomes:
    """Detect in the images of annotations, and match the detections with their boxes.

    Args:
        predictor: with a vocabulary without a calibration.
        content: a COCO json whose category ids are positions in the vocabulary. Detections of other
            labels do not count.
        image_root: the folder of its images.
        console: where to show a progress bar.
    """
    images = content["images"]
    positions = {image["id"]: i for i, image in enumerate(images)}
    known = {category["id"] for category in content["categories"]}
    boxes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for box in content["annotations"]:
        boxes[box["image_id"]].append(box)
    sources = (image_root / image["file_name"] for image in images)
    results = zip(images, predictor(sources, score_threshold=FLOOR), strict=True)
    shown = iter(track(results, "detecting", len(images), console=console, transient=True,
                       disable=not console.is_terminal))  # fmt: skip
    parts = []
    while batch := [*islice(shown, IMAGES_AT_ONCE)]:
        of_batch = [image for image, _ in batch]
        part = {
            **content,
            "images": of_batch,
            "annotations": [box for image in of_batch for box in boxes[image["id"]]],
        }
        found = (one for image, instances in batch for one in to_coco(instances, image["id"]))
        matches = match(part, [one for one in found if one["category_id"] in known])
        parts.append(
            (
                [positions[i] for i in matches.image_ids],
                matches.category_ids,
                matches.scores,
                matches.right,
                [positions[box["image_id"]] for box in matches.boxes],
                [box["category_id"] for box in matches.boxes],
            )
        )
    kinds = (np.int64, np.int64, np.float64, np.bool_, np.int64, np.int64)
    columns = zip(kinds, zip(*parts, strict=True), strict=True)
    return Outcomes(*(np.concatenate([np.asarray(p, kind) for p in of]) for kind, of in columns))
