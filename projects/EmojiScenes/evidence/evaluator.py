"""All metrics of the benchmark in one pass over a test set."""

from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Instances
from torchvision.ops import nms

from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator

NMS_THRESHOLD = 0.6


def benchmark_evaluator(
    dataset_name: str, output_dir: str | None = None, max_detections: Sequence[int] = (100,)
) -> DatasetEvaluators:
    """LVIS's AP ("bbox", "bbox_fixed"), average recall ("box_recall"), name accuracy ("names").

    Average recall counts boxes that do not cover each other, whatever their labels: otherwise one
    box under many labels would use up the number of detections that is allowed.

    Args:
        dataset_name: its metadata has a ``json_file`` in LVIS's format.
        output_dir: where results are written.
        max_detections: numbers of detections an image at which average recall is measured.

    Raises:
        UserError: see the evaluators.
    """
    return DatasetEvaluators(
        [
            LVISFixedAPEvaluator(dataset_name, output_dir=output_dir),
            ClassAgnosticRecallEvaluator(dataset_name, max_detections, output_dir=output_dir),
            NameAccuracyEvaluator(dataset_name, output_dir=output_dir),
        ]
    )


class ClassAgnosticRecallEvaluator(AverageRecallEvaluator):
    """Average recall after non-maximum suppression over all labels together."""

    def add(self, key: Any, instances: Instances) -> None:
        """Compare the remaining detections of an image with its boxes."""
        super().add(key, class_agnostic_nms(instances))


def class_agnostic_nms(instances: Instances) -> Instances:
    """The detections that no detection with a higher score covers, whatever its label."""
    if not len(instances):
        return instances
    return instances[nms(instances.pred_boxes.tensor, instances.scores, NMS_THRESHOLD)]
