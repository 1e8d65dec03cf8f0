"""The settings that decide which detections are returned.

It imports no framework, so that the command line can describe them.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from detclip2.utils.errors import UserError


def _setting(meaning: str) -> Any:
    return field(default=None, metadata={"meaning": meaning})


@dataclass(frozen=True)
class DetectionThresholds:
    """The four settings that decide which detections are returned, in the order in which they act.

    A setting that is None falls back to the next level: a call, the predictor, ``inference`` in the
    config, ``model.postprocess`` in the config. `MEANINGS` describes each.

    Raises:
        UserError: a value is out of range.
    """

    score_threshold: float | None = _setting(
        "a box with a name is dropped if its score is lower; from 0 to 1. A lower "
        "threshold finds more, and more that is wrong"
    )
    nms_threshold: float | None = _setting(
        "of two boxes of one name that overlap more (intersection over union), the one with the "
        "lower score is dropped; from 0 to 1. 1 keeps all"
    )
    class_agnostic_nms: bool | None = _setting(
        "boxes of different names suppress each other too, so that an object gets one name"
    )
    max_detections: int | None = _setting(
        "the best so many of an image are kept, all names together; at least 1. Thousands take "
        "long: the time of the suppression grows with their square"
    )

    def __post_init__(self) -> None:
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; expected a number from 0 to 1")
        if self.max_detections is not None and self.max_detections < 1:
            raise UserError(f"max_detections is {self.max_detections}; expected at least 1")

    def or_else(self, other: "DetectionThresholds") -> "DetectionThresholds":
        """These settings, with those of ``other`` in place of None."""
        own = vars(self)
        return DetectionThresholds(
            **{name: own[name] if own[name] is not None else vars(other)[name] for name in own}
        )


MEANINGS: dict[str, str] = {f.name: f.metadata["meaning"] for f in fields(DetectionThresholds)}
"""Setting -> its meaning; for `--help` and docs/inference.md."""
