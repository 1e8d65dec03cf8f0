"""AP50 by name on partly labelled images, where a name that is unknown is not wrong."""

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from detclip2.data.io.coco_json import read_json
from detclip2.data.io.coco_parser import Content, Entry
from detclip2.evaluation.coco import CheckedCOCOEvaluator
from detclip2.evaluation.coco_api import AREAS, by_category, curves, mean_of
from detclip2.evaluation.federated import Federated
from detclip2.evaluation.matching import match


def ap50_by_name(
    content: Content, detections: Sequence[Entry], area: str = "all"
) -> dict[str, float]:
    """Name -> AP at an IoU of 0.5, in percent, by COCO's protocol; NaN for names without boxes.

    Detections of a category, and its boxes, are ignored in images where it is unknown or not
    exhaustive (`Federated`).

    Args:
        content: a COCO json.
        detections: in COCO's format of results.
        area: of the boxes that count, a key of `AREAS`.
    """
    federated = Federated(content)
    sizes = list(AREAS).index(area)
    truth, known = (
        by_category(b for b in boxes if federated.is_exhaustive(b["image_id"], b["category_id"]))
        for boxes in (content["annotations"], detections)
    )
    return {
        category["name"]: mean_of(
            curves(truth[category["id"]], known[category["id"]]).precision[0, :, sizes]
        )
        for category in content["categories"]
    }


def precision_by_score(
    content: Content,
    detections: Sequence[Entry],
    edges: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0),
) -> list[tuple[float, float, int, float]]:
    """Whether scores can be read as probabilities: the share of right detections, by score.

    A detection is right if it is matched with a box of its name at an IoU of 0.5; those that are
    matched with a crowd do not count.

    Args:
        content: as `ap50_by_name`.
        detections: as there.
        edges: N + 1 scores, ascending.

    Returns:
        For each of the N intervals: its edges, the number of detections, the share of right ones
        in percent (NaN without any).
    """
    _, _, score, is_right, _ = match(content, detections)
    rows = []
    for low, high in pairwise(edges):
        chosen = is_right[(score >= low) & (score < high)]
        share = float(100 * chosen.mean()) if chosen.size else math.nan
        rows.append((low, high, int(chosen.size), share))
    return rows


def frequent_names(json_file: str, boxes: int = 20) -> list[str]:
    """The names with at least so many boxes in a COCO json, crowds included."""
    content = read_json(json_file)
    counts: dict[int, int] = {}
    for annotation in content["annotations"]:
        counts[annotation["category_id"]] = counts.get(annotation["category_id"], 0) + 1
    return [c["name"] for c in content["categories"] if counts.get(c["id"], 0) >= boxes]


class PartlyLabelledEvaluator(CheckedCOCOEvaluator):
    """COCO's AP, and AP50 over some names in which unknown names are ignored.

    Args:
        dataset_name: as of `CheckedCOCOEvaluator`.
        names: those of "AP50-names": the mean over those that have boxes.
        **options: of `CheckedCOCOEvaluator`.
    """

    best_metric: ClassVar[str] = "bbox/AP50-names"

    def __init__(self, dataset_name: str, names: Collection[str], **options: Any) -> None:
        super().__init__(dataset_name, **options)
        self.names = set(names)

    def evaluate(self) -> dict[str, Any]:
        """As `CheckedCOCOEvaluator`, with "AP50-names", "AP50-person" and all of "AP50-{name}"."""
        results = super().evaluate()
        if "bbox" not in results:
            return results
        of_name = ap50_by_name(self.content, self.detections)
        measured = [ap for name, ap in of_name.items() if name in self.names and not math.isnan(ap)]
        results["bbox"]["AP50-names"] = float(np.mean(measured)) if measured else math.nan
        results["bbox"].update({f"AP50-{name}": ap for name, ap in of_name.items()})
        return results
