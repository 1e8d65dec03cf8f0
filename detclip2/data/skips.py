"""Counts of skipped data by kind: a skip is always reported and never ends a run."""

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
    "image-listed-twice": "a file that is listed under another image id too (made one image)",
    "size-malformed": "a stated width or height that is no size (that of the file counts)",
    "annotation-repeated": "an exact repeat of an annotation",
    "annotation-duplicate": "a second annotation with the same id (kept, ids are not used)",
    "category-unknown": "an annotation names a category that is not in the file",
    "category-duplicate": "a second category with the same id",
    "category-unnamed": "a box of a category without a name",
    "box-fraction": "a box in fractions of its image (read as such, not skipped)",
    "box-invalid": "a box with NaN, inverted, without area, below a pixel or outside the image",
    "mask-invalid": "a mask that is neither polygons nor an RLE of the image's size",
    "mask-empty": "a mask without a pixel, or with none left in the view (the box is kept)",
    "caption-empty": "no caption, or nothing but whitespace",
    "caption-encoding": "a caption that is not UTF-8",
    "caption-several": "several captions of an image: their phrases are extracted in training",
    "caption-without-phrase": "a caption in which there is no noun phrase",
    "question-without-words": "a question without a letter or a digit",
    "question-unanswered": "a question without an answer in the file of answers",
    "answer-unknown": "a question none of whose answers is in the model's list",
    "span-outside": "a phrase span that is empty or outside of its caption",
    "phrase-over-limit": "a positive phrase beyond the most that a sample may have",
    "record-malformed": "a line or record that is not in the format",
    "member-unread": "a file in a tar shard that belongs to no image-text pair",
    "shard-unreadable": "a tar shard that is missing, truncated or damaged",
    "member-unusable": "a link, a device or a huge file in a tar shard",
    "worker-died": "a worker process that ended and was started again",
    "other": "everything else; the log has the words",
}


class SkipCounter:
    """Counts skipped data by kind; worker processes share the counts.

    The process that skips also logs the first few of each kind with their files. The training loop
    logs `report` every N iterations and at the end. A data set may carry the counter to a data
    loader's workers, with any start method.

    Args:
        name: name of the source, for the log.
        kinds: kind -> meaning, beside `KINDS`; any other kind is counted as "other".
        num_examples: number of skips of each kind that are logged in full.
    """

    def __init__(self, name: str = "", kinds: dict[str, str] | None = None, num_examples: int = 5):
        self.name = name
        self.kinds = {**KINDS, **(kinds or {})}
        self.num_examples = num_examples
        self._slots = {kind: slot for slot, kind in enumerate(self.kinds)}
        # Workers of any start method accept arrays of the "spawn" context.
        context = multiprocessing.get_context("spawn")
        self._counts: Any = context.Array("q", len(self.kinds))

    def add(self, kind: str, message: str = "", number: int = 1) -> None:
        """Count `number` skips of a kind; `message` is for the log, with the file."""
        # A file name that is not UTF-8 cannot be logged as it is.
        message = message.encode("utf-8", "backslashreplace").decode()
        slot = self._slots.get(kind)
        if slot is None:
            slot, message = self._slots["other"], f"{kind}: {message}"
        with self._counts.get_lock():
            before = self._counts[slot]
            self._counts[slot] = before + number
        if before < self.num_examples:
            logger.warning("%sskipped (%s): %s", self.name and f"{self.name}: ", kind, message)

    def counts(self) -> dict[str, int]:
        """Kind -> count over all processes that share this counter, without zeros."""
        with self._counts.get_lock():
            values = list(self._counts)
        return {kind: value for kind, value in zip(self.kinds, values, strict=True) if value}

    def total(self) -> int:
        """The number of skips of all kinds."""
        return sum(self.counts().values())

    def report(self) -> str:
        """One line: the total and the count of each kind."""
        counts = self.counts()
        what = ", ".join(f"{kind} {number}" for kind, number in counts.items())
        label = self.name and f"{self.name}: "
        return f"{label}skipped {sum(counts.values())}" + (f" ({what})" if what else "")

    def log(self) -> None:
        """Log the report if anything was skipped."""
        if self.total():
            logger.warning(self.report())

    def state_dict(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return self.counts()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore the counts of a checkpoint."""
        with self._counts.get_lock():
            for kind, slot in self._slots.items():
                self._counts[slot] = state.get(kind, 0)
