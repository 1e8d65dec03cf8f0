"""All that docs/benchmark.md measures, of one pass over a test set."""

from collections.abc import Sequence

from detectron2.evaluation import DatasetEvaluators

from detclip2.errors import UserError
from detclip2.evaluation.average_recall import AverageRecallEvaluator
from detclip2.evaluation.lvis_evaluator import LVISEvaluator
from detclip2.evaluation.name_accuracy import NameAccuracyEvaluator


def open_vocabulary_evaluator(
    dataset_name: str,
    tasks: Sequence[str] = ("bbox",),
    output_dir: str | None = None,
    max_detections: Sequence[int] = (100,),
) -> DatasetEvaluators:
    """LVIS's AP ("bbox", "bbox_fixed"), average recall ("box_recall") and names ("names").

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
            LVISEvaluator(dataset_name, tasks, output_dir=output_dir),
            AverageRecallEvaluator(dataset_name, max_detections, output_dir=output_dir),
            NameAccuracyEvaluator(dataset_name, output_dir=output_dir),
        ]
    )
