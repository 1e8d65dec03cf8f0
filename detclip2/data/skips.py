"""What is left out of training is counted by kind and reported: never silent, never fatal."""

import logging
import multiprocessing
from typing import Any

logger = logging.getLogger(__name__)

KINDS = {
    "image-unreadable": "the image file is missing, broken or no image",
    "image-mismatched": "the image has another size than its record says",
    "image-extreme": "an image more than 100 times as long as wide",
    "image-unknown": "an annotation names an image that is not in the file",
    "image-duplicate": "a second image with the same id",
    "annotation-duplicate": "a second annotation with the same id (kept, ids are not used)",
    "category-unknown": "an annotation names a category that is not in the file",
    "category-duplicate": "a second category with the same id",
    "category-unnamed": "a box of a category without a name",
    "box-invalid": "a box with NaN, inverted, without area or outside the image",
    "caption-empty": "no caption, or nothing but whitespace",
    "caption-encoding": "a caption that is not UTF-8",
    "caption-without-phrase": "a caption in which there is no noun phrase",
    "span-outside": "a phrase span that is empty or outside of its caption",
    "phrase-over-limit": "a positive phrase beyond the most that a sample may have",
    "record-malformed": "a line or record that is not in the format",
    "shard-unreadable": "a tar shard that is missing, truncated or damaged",
    "worker-died": "a worker process that ended and was started again",
    "other": "everything else; the log has the words",
}


class SkipCounter:
    """Counts what was left out, by kind; the counts are shared with worker processes.

    The first few of each kind are logged with their file as they occur, by the process that met
    them; :meth:`report` is for the training loop, every N iterations and at the end. It travels to
    a data loader's workers as part of the data set (any start method).

    Args:
        name: of the source, for the log.
        kinds: the kinds this counter knows; any other is counted as "other".
        num_examples: how many of each kind are logged in full.
    """

    def __init__(self, name: str = "", kinds: dict[str, str] | None = None, num_examples: int = 5):
        self.name = name
        self.kinds = {**KINDS, **(kinds or {})}
        self.num_examples = num_examples
        self._slots = {kind: slot for slot, kind in enumerate(self.kinds)}
        # Of the "spawn" context, because that can be handed to workers however they start.
        context = multiprocessing.get_context("spawn")
        self._counts: Any = context.Array("q", len(self.kinds))

    def add(self, kind: str, message: str = "", number: int = 1) -> None:
        """Count one more of a kind, or `number`; `message` says what was wrong, and the file."""
        slot = self._slots.get(kind)
        if slot is None:
            slot, message = self._slots["other"], f"{kind}: {message}"
        with self._counts.get_lock():
            before = self._counts[slot]
            self._counts[slot] = before + number
        if before < self.num_examples:
            logger.warning("%sleft out (%s): %s", self.name and f"{self.name}: ", kind, message)

    def counts(self) -> dict[str, int]:
        """Kind -> count, over all processes that share this counter, kinds with a count only."""
        with self._counts.get_lock():
            values = list(self._counts)
        return {kind: value for kind, value in zip(self.kinds, values, strict=True) if value}

    def total(self) -> int:
        """How many in all."""
        return sum(self.counts().values())

    def report(self) -> str:
        """One line: the total and the count of each kind."""
        counts = self.counts()
        what = ", ".join(f"{kind} {number}" for kind, number in counts.items())
        label = self.name and f"{self.name}: "
        return f"{label}left out {sum(counts.values())}" + (f" ({what})" if what else "")

    def log(self) -> None:
        """Log the report, if there is anything in it."""
        if self.total():
            logger.warning(self.report())

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return self.counts()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up the counts of a checkpoint."""
        with self._counts.get_lock():
            for kind, slot in self._slots.items():
                self._counts[slot] = state.get(kind, 0)
