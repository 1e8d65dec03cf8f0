"""The kind of supervision of a batch, which decides its losses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detclip2.utils.errors import UserError


def supervision_of(samples: Sequence[Mapping[str, Any]]) -> str:
    """The kind of supervision of a batch: "detection", "grounding", "caption", ...

    Raises:
        UserError: a sample has none: its mapper is not one of this project.
        ValueError: the samples have different kinds.
    """
    if any("supervision" not in sample for sample in samples):
        raise UserError(
            "the samples have no `supervision`: the loader's mapper must be of detclip2, such as "
            "detclip2.data.DetectionMapper in place of Detectron2's DatasetMapper "
            "(build_detection_train_loader(cfg, mapper=...))"
        )
    kinds = {sample["supervision"] for sample in samples}
    if len(kinds) != 1:
        raise ValueError(f"a batch must be of one supervision, but this one has {sorted(kinds)}")
    return kinds.pop()


def losses_for(samples: Sequence[Mapping[str, Any]], losses: Iterable[Any]) -> Any:
    """The one of ``losses`` that is for the supervision of a batch.

    Args:
        samples: B of them, of one supervision.
        losses: each lists the kinds that it is for in ``supervisions``.

    Raises:
        UserError: there is none.
    """
    kind = supervision_of(samples)
    for candidate in losses:
        if kind in candidate.supervisions:
            return candidate
    raise UserError(
        f"the model has no losses for the supervision {kind!r}: give it some that list {kind!r} in "
        "their `supervisions`, by model.extra_losses in the config"
    )
