"""What ``detclip2 predict`` prints: a table of a file, or one summary of many."""

from pathlib import Path

from detectron2.structures import Instances
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from detclip2.commands.detection_arguments import common_threshold
from detclip2.commands.tables import console_for_tables
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.visualization.annotate import Tally

ROWS_SHOWN = 20
MOST_TABLES = 5
"""Files of a call that have a table each; more have a summary."""


class Report:
    """Prints results as they come, and a summary at the end of many.

    Args:
        files: number of files of the call.
        predictor: with the settings of all detections.
    """

    def __init__(self, files: int, predictor: OpenVocabularyPredictor) -> None:
        self.files = files
        self.has_tables = files <= MOST_TABLES
        self._console = console_for_tables()
        self._tally = Tally()
        self._empty = self._found = 0
        self._from = _least_score(predictor)

    def image(self, image: str, instances: Instances, annotated: Path) -> None:
        """Print a table of an image: name, score, box; the best first."""
        self._tally.add(instances)
        self._found += len(instances)
        self._empty += not len(instances)
        if not self.has_tables:
            return
        head = f"{image}: {len(instances)} found with {self._from}"
        # Text, not str: rich would read brackets in a name as markup.
        self._console.print(Text(head, style="bold"), soft_wrap=True)
        if len(instances):
            table = Table("name", box=SIMPLE_HEAD)
            table.add_column("score", justify="right")
            table.add_column("box: x1, y1, x2, y2", justify="right")
            shown = instances[:ROWS_SHOWN]
            boxes = shown.pred_boxes.tensor.tolist()
            for label, score, box in zip(shown.labels, shown.scores.tolist(), boxes, strict=True):
                corners = ", ".join(f"{corner:.0f}" for corner in box)
                table.add_row(Text(label, overflow="fold"), f"{score:.3f}", corners)
            self._console.print(table)
        if len(instances) > ROWS_SHOWN:
            self._console.print(f"and {len(instances) - ROWS_SHOWN} more with lower scores")
        self._console.print(Text(f"annotated image: {annotated}"), soft_wrap=True)

    def video(self, video: str, tally: Tally, annotated: Path) -> None:
        """Print a table of a video, see `_names`."""
        head = f"{video}: {tally.frames} frames"
        self._console.print(Text(head, style="bold"), soft_wrap=True)
        self._names(tally, "frames")
        self._console.print(Text(f"annotated video: {annotated}"), soft_wrap=True)

    def end(self, folder: Path) -> None:
        """Print the summary of the images, if they had no tables."""
        if self.has_tables or not self._tally.frames:
            return
        head = (
            f"{self._tally.frames} images: {self._found} found with {self._from}, "
            f"nothing in {self._empty} of them"
        )
        self._console.print(Text(head, style="bold"), soft_wrap=True)
        self._names(self._tally, "images")
        self._console.print(Text(f"annotated images: {folder}"), soft_wrap=True)

    def _names(self, tally: Tally, counted: str) -> None:
        """A table: name, number of images or frames, best score; the most frequent first."""
        if tally.labels:
            table = Table("name", box=SIMPLE_HEAD)
            table.add_column(counted, justify="right")
            table.add_column("best score", justify="right")
            items = sorted(tally.labels.items(), key=lambda item: (*item[1], item[0]), reverse=True)
            for label, (number, score) in items[:ROWS_SHOWN]:
                table.add_row(Text(label, overflow="fold"), str(number), f"{score:.3f}")
            self._console.print(table)
        if len(tally.labels) > ROWS_SHOWN:
            self._console.print(f"and {len(tally.labels) - ROWS_SHOWN} more names")


def _least_score(predictor: OpenVocabularyPredictor) -> str:
    """From which scores detections are listed."""
    vocabulary = predictor.vocabulary
    common = common_threshold(predictor, vocabulary)
    if vocabulary is None or vocabulary.calibration is None:
        return f"scores from {common:g}"
    thresholds = vocabulary.thresholds or (0.0,)
    least, most = (max(common, limit(thresholds)) for limit in (min, max))
    by_label = f" to {most:.2f}, by label" if most > least else ""
    return f"calibrated scores from {least:.2f}{by_label}"
