"""Checks of the detections that evaluators accept, and the file of their results."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances

from detclip2.evaluation.protocol import Protocol
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json


def check_known(image_id: Any, image_ids: Collection[Any], json_file: str) -> None:
    """Refuse detections of an image that is not in the annotations.

    Raises:
        UserError: the image is unknown; the message names it and the file.
    """
    if image_id not in image_ids:
        raise UserError(
            f"there are detections for image {image_id}, which is not in {json_file}: the images "
            "and the annotations are of different data sets"
        )


def check_finite(image_id: Any, instances: Instances) -> None:
    """Refuse detections with scores or boxes that are not finite.

    Raises:
        UserError: a score or a box of the image is not a finite number.
    """
    for what, values in (("score", instances.scores), ("box", instances.pred_boxes.tensor)):
        if not torch.isfinite(values).all():
            raise UserError(
                f"a {what} of image {image_id} is not a finite number: the weights of the model "
                "are broken (a training that diverged?)"
            )


def add_once(known: dict[Any, Any], more: Mapping[Any, Any], twice: Callable[[Any], str]) -> None:
    """Add results by key, of a batch or of another process.

    Args:
        known: is changed.
        more: the results.
        twice: the sentence for a key that has results already.

    Raises:
        UserError: there is such a key.
    """
    if common := known.keys() & more.keys():
        raise UserError(twice(min(common, key=str)))
    known.update(more)


def check_masks(instances: Instances) -> None:
    """Refuse detections without masks where masks are evaluated.

    Raises:
        UserError: there are none.
    """
    if not instances.has("pred_masks"):
        raise UserError(
            "masks are to be evaluated, but the model gives none: set mask_head in its config, or "
            "evaluate boxes alone, tasks=['bbox']"
        )


def write_results(path: Path, protocol: Protocol, results: Mapping[str, Any]) -> None:
    """Write results and their protocol as JSON; NaN is written as null."""
    write_json(path, {"protocol": asdict(protocol), **results}, indent=2)
