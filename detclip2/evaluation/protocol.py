"""Protocol of an evaluation, in one line: numbers with different protocols are not comparable."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Protocol:
    """The conditions of an evaluation; ``str`` gives the line that every evaluator prints."""

    dataset: str
    """Name of the split."""
    annotations: str
    """Name and `file_hash` of the annotation file, as from `annotations_of`."""
    detections: str
    """Number of detections kept, per image and per class."""
    metric: str
    """The computed metric, e.g. "Fixed AP"."""
    prompts: str = "not stated"
    """The description of the vocabulary."""

    def __str__(self) -> str:
        return (
            f"Protocol: {self.dataset} ({self.annotations}); prompts: {self.prompts}; "
            f"detections kept: {self.detections}; {self.metric}"
        )


def file_hash(path: str | Path) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a file, as ``sha256sum`` prints them."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:8]


def annotations_of(path: str | Path) -> str:
    """A file as `Protocol` names it: "lvis_v1_val.json sha256 0123abcd"."""
    return f"{Path(path).name} sha256 {file_hash(path)}"
