"""What a run has found: counts by label, and what was skipped, from its journals."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detclip2.data.skips import KINDS
from detclip2.labelling.detector import Entry

EXAMPLES = 5


@dataclass
class Report:
    """The counts of a run; they take memory for its labels, not for its images."""

    labels: Sequence[str]
    """C labels."""
    images: np.ndarray = field(init=False)
    """(C,) the images with a detection of each label."""
    boxes: np.ndarray = field(init=False)
    """(C,) the detections of each label."""
    labelled: int = 0
    """Images that were detected in."""
    empty: int = 0
    """Those of them in which nothing was found."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Kind -> number of images."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> the first reasons."""

    def __post_init__(self) -> None:
        self.images = np.zeros(len(self.labels), dtype=np.int64)
        self.boxes = np.zeros(len(self.labels), dtype=np.int64)

    def add(self, entries: Iterable[Entry]) -> "Report":
        """Count entries; returns the report."""
        for one in entries:
            if kind := one.get("skipped"):
                self.skipped[kind] += 1
                known = self.examples.setdefault(kind, [])
                if len(known) < EXAMPLES:
                    known.append(one["reason"])
                continue
            counts = np.bincount(
                np.array(one["classes"], dtype=np.int64), minlength=len(self.labels)
            )
            self.boxes += counts
            self.images += counts > 0
            self.labelled += 1
            self.empty += not one["classes"]
        return self

    def frequent(self) -> list[tuple[str, int, int]]:
        """Label, images and boxes of each label that was found, the most frequent first."""
        found = self.boxes.nonzero()[0]
        order = found[np.argsort(-self.boxes[found], kind="stable")]
        return [(self.labels[i], int(self.images[i]), int(self.boxes[i])) for i in order]

    def to_json(self) -> dict[str, Any]:
        """The report as json."""
        return {
            "images": self.labelled,
            "images without detections": self.empty,
            "boxes": int(self.boxes.sum()),
            "labels": {
                label: {"images": int(images), "boxes": int(boxes)}
                for label, images, boxes in zip(self.labels, self.images, self.boxes, strict=True)
            },
            "skipped": {
                kind: {"meaning": KINDS[kind], "images": number, "examples": self.examples[kind]}
                for kind, number in self.skipped.items()
            },
        }
