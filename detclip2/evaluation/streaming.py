"""Base of the evaluators: they process images one by one and report their protocol."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from numpy.typing import NDArray

from detclip2.data.io.coco_values import id_of
from detclip2.evaluation.checks import check_finite, check_known, write_results
from detclip2.evaluation.protocol import Protocol
from detclip2.utils.errors import UserError


class StreamingEvaluator(DatasetEvaluator):
    """Checks each image's detections and passes them to `add`.

    A subclass defines `add`, ``reset`` and ``evaluate``.

    Args:
        protocol: the protocol; `set_vocabulary_description` sets its prompts.
        image_ids: ids of the images of the annotations.
        annotations: the file of annotations, for messages.
        distributed: gather the results of all processes on the main one.
        output_dir: folder for results; None writes nothing.
    """

    best_metric: ClassVar[str] = "bbox/AP"
    """The metric by which a training keeps its best checkpoint, unless ``train.best_metric`` is
    set; higher is better."""

    def __init__(
        self,
        protocol: Protocol,
        image_ids: Collection[Any],
        annotations: str,
        distributed: bool = True,
        output_dir: str | Path | None = None,
    ) -> None:
        self.protocol = protocol
        self._image_ids = image_ids
        self._annotations_file = annotations
        self._distributed = distributed
        self._folder = None if output_dir is None else Path(output_dir)

    def set_vocabulary_description(self, description: str) -> None:
        """Set the prompts of the protocol.

        Args:
            description: from `Vocabulary.description`.
        """
        self.protocol = replace(self.protocol, prompts=description)

    def check(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Refuse detections that cannot be measured.

        Raises:
            UserError: an image is not in the annotations; a score or a box is not finite.
        """
        for image, output in zip(inputs, outputs, strict=True):
            check_known(self.key_of(image), self._image_ids, self._annotations_file)
            check_finite(self.key_of(image), output["instances"])

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Check and add the detections of a batch of images.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances``: ``pred_boxes`` XYXY in px of the original image,
                ``scores``, ``pred_classes``.

        Raises:
            UserError: see `check`.
        """
        self.check(inputs, outputs)
        for image, output in zip(inputs, outputs, strict=True):
            self.add(self.key_of(image), output["instances"].to("cpu"))

    def key_of(self, image: Mapping[str, Any]) -> Any:
        """The key of an image: its id, in the form of `detclip2.data.io.coco_json`."""
        return id_of(image["image_id"])

    def add(self, key: Any, instances: Instances) -> None:
        """Add the detections of one image, which are checked and on the CPU."""
        raise NotImplementedError

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes; None on processes other than the main one."""
        if not self._distributed:
            return [value]
        values = comm.gather(value, dst=0)
        return values if comm.is_main_process() else None

    def sum_over_processes(
        self, counts: NDArray[np.int64], image_ids: Sequence[Any]
    ) -> NDArray[np.int64] | None:
        """The sum of the counts of all processes; None on processes other than the main one.

        Raises:
            UserError: no image was evaluated, or one twice.
        """
        parts = self.gather((counts, image_ids))
        if parts is None:
            return None
        seen = [image_id for _, of_process in parts for image_id in of_process]
        if not seen:
            raise UserError(f"{self.protocol.dataset}: no image was evaluated")
        if len(seen) > len(set(seen)):
            raise UserError(f"{self.protocol.dataset}: an image was evaluated twice")
        return np.sum([part for part, _ in parts], axis=0)

    def write(self, file_name: str, results: Mapping[str, Any]) -> None:
        """Write results and the protocol to a file of the output folder, if there is one."""
        if self._folder is not None:
            write_results(self._folder / file_name, self.protocol, results)


def set_vocabulary_description(evaluator: DatasetEvaluator, description: str) -> None:
    """Set the prompts of our evaluators' protocols; Detectron2's own evaluators do not change."""
    for one in _streaming(evaluator):
        one.set_vocabulary_description(description)


def protocols_of(evaluator: DatasetEvaluator) -> list[Protocol]:
    """The protocols of our evaluators; Detectron2's own evaluators have none."""
    return [one.protocol for one in _streaming(evaluator)]


def _streaming(evaluator: DatasetEvaluator) -> list[StreamingEvaluator]:
    parts = getattr(evaluator, "_evaluators", [evaluator])  # of DatasetEvaluators
    return [one for one in parts if isinstance(one, StreamingEvaluator)]
