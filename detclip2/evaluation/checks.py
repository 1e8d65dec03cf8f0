"""What evaluators refuse, and how they write what they found."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils import comm
from numpy.typing import NDArray

from detclip2.evaluation.protocol import Protocol
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole


def sum_over_processes(
    counts: NDArray[np.int64], image_ids: Sequence[Any], dataset: str, distributed: bool
) -> NDArray[np.int64] | None:
    """The sum of what all processes counted in their images; None on others than the main one.

    Raises:
        UserError: no image was evaluated, or one twice.
    """
    if distributed and comm.get_world_size() > 1:
        gathered = comm.gather((counts, image_ids), dst=0)
        if not comm.is_main_process():
            return None
        counts = np.sum([part for part, _ in gathered], axis=0)
        image_ids = [image_id for _, part in gathered for image_id in part]
    if not image_ids:
        raise UserError(f"{dataset}: no image was evaluated")
    if len(image_ids) > len(set(image_ids)):
        raise UserError(f"{dataset}: an image was evaluated twice")
    return counts


def check_known(image_id: Any, image_ids: Collection[Any], json_file: str) -> None:
    """Refuse detections of an image that the annotations do not have.

    Raises:
        UserError: names the image and the file.
    """
    if image_id not in image_ids:
        raise UserError(
            f"there are detections for image {image_id}, which is not in {json_file}: the images "
            "and the annotations are of different data sets"
        )


def check_finite(image_id: Any, instances: Instances) -> None:
    """Refuse detections that no metric can order.

    Raises:
        UserError: a score or a box of the image is not a finite number.
    """
    for what, values in (("score", instances.scores), ("box", instances.pred_boxes.tensor)):
        if not torch.isfinite(values).all():
            raise UserError(
                f"a {what} of image {image_id} is not a finite number: the weights of the model "
                "are broken (a training that diverged?)"
            )


def write_results(path: Path, protocol: Protocol, results: Mapping[str, Any]) -> None:
    """Write results with what they were measured with, as json; NaN is written as null."""
    content = {"protocol": asdict(protocol), **_without_nan(results)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
