"""Which of the things found are returned: four settings, and what each of them means."""

import copy
from dataclasses import dataclass, fields
from typing import TypeVar

from detclip2.utils.errors import UserError

PostProcess = TypeVar("PostProcess")

MEANINGS = {
    "score_threshold": (
        "a box with a name is dropped if its score is lower; from 0 to 1. Lower finds more, and "
        "more that is wrong"
    ),
    "nms_threshold": (
        "of two boxes of one name that overlap more (intersection over union), the one with the "
        "lower score is dropped; from 0 to 1. 1 keeps all"
    ),
    "class_agnostic_nms": (
        "boxes of different names drop each other too, so that a thing gets one name"
    ),
    "max_detections": ("so many of the best are kept in a picture, all names together; at least 1"),
}
"""Setting -> its meaning, in the order in which they act; for `--help` and docs/inference.md."""


@dataclass(frozen=True)
class Selection:
    """The four settings of `MEANINGS`; None leaves a setting to whoever is asked next.

    Raises:
        UserError: a value is out of range.
    """

    score_threshold: float | None = None
    nms_threshold: float | None = None
    class_agnostic_nms: bool | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; expected a number from 0 to 1")
        if self.max_detections is not None and self.max_detections < 1:
            raise UserError(f"max_detections is {self.max_detections}; expected at least 1")

    @classmethod
    def of(cls, settings: object) -> "Selection":
        """The four settings among the attributes of something else."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    def or_else(self, other: "Selection") -> "Selection":
        """These settings, with another's in place of those that are None."""
        own = vars(self)
        return Selection(
            **{name: own[name] if own[name] is not None else vars(other)[name] for name in own}
        )

    def applied(self, postprocess: PostProcess) -> PostProcess:
        """A copy of a model's ``postprocess`` with those of the settings that are not None."""
        changed = copy.copy(postprocess)
        for name, value in vars(self).items():
            if value is not None:
                setattr(changed, name, value)
        return changed
