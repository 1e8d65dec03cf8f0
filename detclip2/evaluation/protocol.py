"""What a number was measured with, in one line: without it, it can be compared with nothing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Protocol:
    """The conditions of an evaluation; ``str`` gives the line that every evaluator prints."""

    dataset: str
    """Name of the split."""
    annotations: str
    """Which annotations: the file's name and :func:`file_hash`, as :func:`annotations_of` gives."""
    prompts: str
    """What the model was asked for: how many names, in which templates."""
    detections: str
    """How many detections were kept, of an image and of a class."""
    metric: str
    """What was computed of them, e.g. "Fixed AP"."""

    def __str__(self) -> str:
        return (
            f"Protocol: {self.dataset} ({self.annotations}); prompts: {self.prompts}; "
            f"detections kept: {self.detections}; {self.metric}"
        )


def file_hash(path: str | Path) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a file; what ``sha256sum`` starts with."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:8]


def annotations_of(path: str | Path) -> str:
    """A file as :class:`Protocol` names it: "lvis_v1_val.json sha256 0123abcd"."""
    return f"{Path(path).name} sha256 {file_hash(path)}"


def prompts_of(names: Sequence[str]) -> str:
    """Names as :class:`Protocol` tells of them: "80 names (person, bicycle, ...)"."""
    shown = ", ".join([*names[:2], *(["..."] if len(names) > 2 else [])])
    return f"{len(names)} name{'s' * (len(names) != 1)} ({shown})"
