"""Evaluation on ODinW: AP of each data set on disk, and their mean."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from detclip2.data.datasets.odinw import OdinwSet, read_odinw
from detclip2.data.io.coco_parser import Content
from detclip2.data.io.image_files import image_problem
from detclip2.evaluation.checks import check_finite, write_results
from detclip2.evaluation.coco_api import METRICS, average_precision
from detclip2.evaluation.protocol import Protocol, annotations_of
from detclip2.inference.results import to_coco
from detclip2.utils.errors import UserError, shown
from detclip2.utils.files import write_json
from detclip2.utils.paths import path_as_written

Detect = Callable[[list[Path], Sequence[str]], Iterable[Instances]]
"""Images and C prompts -> detections of each image; ``pred_classes`` index the prompts."""

MAX_DETECTIONS = 100  # of an image, as in COCO's protocol


@dataclass(frozen=True)
class OdinwSettings:
    """Settings of an evaluation on ODinW; the defaults are the protocol of zero-shot results."""

    root: Path
    """The folder of ODinW."""
    benchmark: int = 13
    """13 or 35."""
    split: str = "valid"
    """"train", "valid", "mini_val" or "test"; GLIP takes "mini_val", which is "valid" in most sets,
    without training and "test" after it."""
    written_prompts: bool = False
    """Use GLIP's hand-written prompts, if there are any, instead of the names."""


def found_sets(
    sets: Sequence[OdinwSet], settings: OdinwSettings
) -> tuple[list[OdinwSet], list[OdinwSet]]:
    """The data sets with annotations on disk, and those without.

    Raises:
        UserError: no data set is on disk.
    """
    found = [one for one in sets if one.annotations(settings.root, settings.split).is_file()]
    if not found:
        expected = sets[0].annotations(settings.root, settings.split)
        raise UserError(
            f"{settings.root}: none of the {len(sets)} data sets is in this folder; expected, for "
            f"instance, {expected}"
        )
    return found, [one for one in sets if one not in found]


def read_split(one: OdinwSet, settings: OdinwSettings) -> tuple[Content, list[Path]]:
    """The annotations, as from `read_odinw`, and the paths of their images.

    Raises:
        UserError: annotations cannot be read or lack a key, or an image is missing, damaged or of
            another size than they state.
    """
    path = one.annotations(settings.root, settings.split)
    content = read_odinw(one, settings.root, settings.split)
    for image in content["images"]:
        if "file_name" not in image:
            raise UserError(f"{path}: id {shown(image['id'])} of 'images' has no key 'file_name'")
    paths = [path_as_written(path.parent, image["file_name"]) for image in content["images"]]
    records = zip(paths, content["images"], strict=True)
    if problem := image_problem([{**image, "file_name": file} for file, image in records]):
        raise UserError(f"{path}: {problem}")
    return content, list(map(Path, paths))


def evaluate_odinw(
    one: OdinwSet, settings: OdinwSettings, detect: Detect, output_dir: Path
) -> dict[str, Any]:
    """AP on one data set; writes its detections to ``<name>.json`` in COCO's format of results.

    Returns:
        ``annotations``, the file and its hash; ``prompts``; ``images``, their number; AP, AP50, ...
        in percent, NaN without boxes to find; ``classes``, name -> AP.

    Raises:
        UserError: annotations or an image cannot be read; detections are not finite.
    """
    content, paths = read_split(one, settings)
    category_ids = [category["id"] for category in content["categories"]]
    prompts = one.vocabulary(settings.benchmark, settings.written_prompts)
    found = []
    for image, instances in zip(content["images"], detect(paths, prompts), strict=True):
        check_finite(image["id"], instances)
        found += to_coco(instances, image["id"], category_ids)
    write_json(output_dir / f"{one.name}.json", found, indent=None)
    boxes = content["annotations"]
    metrics, of_classes = average_precision(category_ids, boxes, found, MAX_DETECTIONS)
    names = dict(zip(category_ids, one.classes, strict=True))
    return {
        "annotations": annotations_of(one.annotations(settings.root, settings.split)),
        "prompts": list(prompts),
        "images": len(paths),
        **metrics,
        "classes": {names[identity]: ap for identity, ap in of_classes.items()},
    }


def mean_of(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The mean of each metric over the data sets in which it is defined; NaN if in none."""
    means = {}
    for metric in METRICS:
        values = [of_set[metric] for of_set in results.values() if not math.isnan(of_set[metric])]
        means[metric] = sum(values) / len(values) if values else math.nan
    return means


def write_summary(
    results: dict[str, dict[str, Any]],
    absent: Mapping[str, Sequence[str]],
    settings: OdinwSettings,
    protocol: Protocol,
    output_dir: Path,
) -> None:
    """Write ``odinw.json``: means, their number of data sets, absent data sets, and all results."""
    summary = {
        "mean": mean_of(results),
        "mean_over": len(results),
        "of": settings.benchmark,
        **absent,
        "sets": results,
    }
    write_results(output_dir / "odinw.json", protocol, summary)


def protocol_of(
    results: dict[str, dict[str, Any]],
    settings: OdinwSettings,
    score_threshold: float,
    vocabulary: str,
) -> Protocol:
    """The protocol of the results; each data set has its own hash in its results.

    Args:
        results: name of a data set -> its results.
        settings: settings of the evaluation.
        score_threshold: least score of a detection.
        vocabulary: description of the vocabulary of all prompts of all data sets.
    """
    kind = "GLIP's hand-written prompts, else names" if settings.written_prompts else "names"
    return Protocol(
        f"ODinW-{settings.benchmark} {settings.split}",
        f"{len(results)} of {settings.benchmark} data sets",
        f"the best {MAX_DETECTIONS} of an image, scores over {score_threshold:g}",
        "standard AP, IoU 0.50:0.95, mean over data sets",
        f"{kind}, asked data set by data set: {vocabulary}",
    )
