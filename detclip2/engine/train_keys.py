"""Keys of the node ``train`` of a config: defaults and checks."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detclip2.config import get_config, reason_of, require_keys, unknown_key
from detclip2.data.sample import SUPERVISIONS
from detclip2.engine.hooks.plateau import ReduceLROnPlateau
from detclip2.utils.errors import UserError, shown

# Types of a default in configs/train.py, and what their values are.
_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool,), "true or false"),
    ((int,), "an integer"),
    ((float, int), "a number"),
    ((str,), "a text"),
)


def add_train_defaults(cfg: DictConfig, name: str = "the config") -> DictConfig:
    """Add the missing keys of ``cfg.train``, in place; return the defaults, those of train.py.

    Raises:
        UserError: ``train`` is not a node with keys.
    """
    known: DictConfig = get_config("train.py").train
    given = cfg.get("train")
    if given is not None:
        require_keys(given, f"{name}: train")
    cfg.train = OmegaConf.merge(known, given or {})
    return known


def check_train(cfg: DictConfig, known: Mapping[str, Any], name: str = "the config") -> None:
    """Check that each value of ``cfg.train`` is of the kind of its default, and in its range.

    Raises:
        UserError: one is of another kind or out of range, or has a key that is not known.
    """
    for key, default in known.items():
        where = f"{name}: train.{key}"
        try:
            value = cfg.train[key]
        except OmegaConfBaseException as error:
            raise UserError(f"{where} cannot be read: {reason_of(error)}") from error
        if isinstance(default, Mapping):
            require_keys(value, where)
        for kinds, what in _KINDS:
            if type(default) in kinds and type(value) not in kinds:
                raise UserError(f"{where} is {shown(value)}; expected {what}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where} is {value}; expected a finite number")
    _check_values(cfg, known, name)


def _check_values(cfg: DictConfig, known: Mapping[str, Any], name: str) -> None:
    """Check what a wrong key or number would change in silence, or only after hours."""
    train, where = cfg.train, f"{name}: train"
    plateau = [*inspect.signature(ReduceLROnPlateau).parameters][1:]  # without the schedule
    keys = {"amp": known["amp"], "checkpointer": known["checkpointer"]}
    for key, inner in {**keys, "reduce_lr_on_plateau": plateau}.items():
        for unknown in [one for one in train[key] or () if one not in inner]:
            raise UserError(unknown_key(name, f"train.{key}", str(unknown), map(str, inner)))
    for key in ("log_period", "report_period"):
        positive_integer(train[key], f"{where}.{key}")
    if train.clip_grad < 0:
        raise UserError(f"{where}.clip_grad is {train.clip_grad}; expected 0 or more")
    sources = OmegaConf.select(cfg, "dataloader.train") or ()
    for supervision, size in train.micro_batch.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise UserError(
                f"{where}.micro_batch.{supervision} is {shown(size)}; expected a number of "
                "samples, or 0 for the whole batch"
            )
        if supervision in sources and supervision not in SUPERVISIONS:
            raise UserError(
                f"{where}.micro_batch: {supervision!r} is the name of a source; expected the "
                f"supervision of its samples, one of {', '.join(SUPERVISIONS)}"
            )


def positive_integer(value: Any, where: str) -> int:
    """A value of a config that must be an integer above 0.

    Args:
        value: the value.
        where: its place, for messages.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where} is {shown(value)}; expected an integer above 0")
    return value
