"""All that docs/benchmark.md measures, of one pass over a test set."""

from collections.abc import Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Instances
from torchvision.ops import nms

from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.evaluation.lvis import LVISFixedAPEvaluator
from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator
from detclip2.utils.errors import UserError

NMS_THRESHOLD = 0.6


def open_vocabulary_evaluator(
    dataset_name: str,
    tasks: Sequence[str] = ("bbox",),
    output_dir: str | None = None,
    max_detections: Sequence[int] = (100,),
) -> DatasetEvaluators:
    """LVIS's AP ("bbox", "bbox_fixed"), average recall ("box_recall") and names ("names").

    Average recall is of boxes that do not cover each other, whatever their names: else one box
    under many names would fill the number that counts.

    Args:
        dataset_name: its metadata has a ``json_file`` in LVIS's format.
        tasks: ("bbox",), as of other evaluators.
        output_dir: where results are written.
        max_detections: of average recall.

    Raises:
        UserError: see the evaluators; or `tasks` has others.
    """
    if list(tasks) != ["bbox"]:
        raise UserError(f"open_vocabulary_evaluator evaluates boxes, not {list(tasks)}")
    return DatasetEvaluators(
        [
            LVISFixedAPEvaluator(dataset_name, tasks, output_dir=output_dir),
            _RecallOfBoxes(dataset_name, max_detections, output_dir=output_dir),
            NameAccuracyEvaluator(dataset_name, output_dir=output_dir),
        ]
    )


class _RecallOfBoxes(AverageRecallEvaluator):
    """Average recall after suppression over all names."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """As of :class:`AverageRecallEvaluator`."""
        boxes = [{"instances": without_covered(output["instances"])} for output in outputs]
        super().process(inputs, boxes)


def without_covered(instances: Instances) -> Instances:
    """The detections that no better one covers, whatever its name."""
    if not len(instances):
        return instances
    return instances[nms(instances.pred_boxes.tensor, instances.scores, NMS_THRESHOLD)]
