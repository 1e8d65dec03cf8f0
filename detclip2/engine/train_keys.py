"""Keys of the node ``train`` of a config: defaults and checks."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detclip2.config import get_config, reason_of, require_keys
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
    """Check that each value of ``cfg.train`` is of the kind of its default.

    Raises:
        UserError: one is of another kind.
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
