"""yacs configs, and objects that can be built from one."""

import functools
import inspect
import logging

from fvcore.common.config import CfgNode as _CfgNode
from omegaconf import DictConfig

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "configurable", "get_cfg"]

# (name in a config of version 1, name now)
_RENAMED = (
    ("MODEL.WEIGHT", "MODEL.WEIGHTS"),
    ("TEST.DETECTIONS_PER_IMG", "TEST.DETECTIONS_PER_IMAGE"),
    ("TEST.AUG_ON", "TEST.AUG.ENABLED"),
    ("TEST.AUG_MIN_SIZES", "TEST.AUG.MIN_SIZES"),
    ("TEST.AUG_MAX_SIZE", "TEST.AUG.MAX_SIZE"),
    ("TEST.AUG_FLIP", "TEST.AUG.FLIP"),
)


class CfgNode(_CfgNode):
    """fvcore's CfgNode, which opens files with our PathManager and converts old config versions.

    A yaml file may hold python objects by default: a config from others is code from others.
    """

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Take over the keys of a yaml file, and of the file that its `_BASE_` names.

        Raises:
            AssertionError: the file does not exist, or is of a later version than this config.
            KeyError: this config has no such key.
        """
        is_there = PathManager.isfile(cfg_filename)
        assert is_there, f"The config file {cfg_filename} does not exist."
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        latest = get_cfg().VERSION
        assert latest == self.VERSION, (
            "CfgNode.merge_from_file is only allowed on a config object of latest version!"
        )
        version = loaded.get("VERSION", None)
        if version is None:
            version = _guess_version(loaded, latest)
            logging.getLogger(__name__).warning(
                f"Config '{cfg_filename}' has no VERSION. Assuming it to be v{version}."
            )
        assert version <= latest, f"Cannot merge a v{version} config into a v{latest} config."
        if version < latest:
            logging.getLogger(__name__).warning(
                f"Config '{cfg_filename}' is of v{version}: its keys are renamed to v{latest}."
            )
            _rename_old_keys(loaded)
            loaded.VERSION = latest
        self.merge_from_other_cfg(loaded)


def get_cfg() -> CfgNode:
    """A copy of the default config."""
    from .defaults import _C  # its nodes are CfgNodes

    return _C.clone()


def _guess_version(cfg: CfgNode, latest: int) -> int:
    is_old = "WEIGHT" in cfg.get("MODEL", {}) or "AUG_ON" in cfg.get("TEST", {})
    return 1 if is_old else latest


def _rename_old_keys(cfg: CfgNode) -> None:
    for old, new in _RENAMED:
        section, key = old.split(".")
        if key in cfg.get(section, {}):
            *path, new_key = new.split(".")
            node = cfg
            for part in path:
                node = node.setdefault(part, CfgNode())
            node[new_key] = cfg[section].pop(key)


def configurable(init_func=None, *, from_config=None):
    """Let a callable also be called with a config, as `f(cfg, ...)` or `f(cfg=cfg, ...)`.

    On an `__init__`: its class has a classmethod `from_config(cfg, ...)` that returns the
    arguments of `__init__` as a dict. On a function: `@configurable(from_config=function)`.
    Keywords that `from_config` does not know go before what it returns. A config is a CfgNode or a
    DictConfig. Called without one, the callable is as it was.

    Raises:
        AttributeError: the class has no `from_config`.
        TypeError: `from_config` is no classmethod, or its first argument is not called `cfg`.
    """
    if init_func is not None:
        is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
        assert is_init, "Incorrect use of @configurable. Check API documentation for examples."
        assert from_config is None, "An __init__ has the from_config of its class."
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    assert inspect.isfunction(from_config), "from_config argument of configurable is no function!"

    def decorate(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _has_config(args, kwargs):
                return function(**_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate


def _configurable_init(init):
    @functools.wraps(init)
    def wrapped(self, *args, **kwargs):
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{type(self)} is @configurable, and has no from_config.")
        if not inspect.ismethod(from_config):
            raise TypeError(f"from_config of {type(self)} is not a classmethod.")
        if _has_config(args, kwargs):
            init(self, **_arguments(from_config, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return wrapped


def _has_config(args, kwargs) -> bool:
    candidates = [*args[:1], kwargs.get("cfg")]
    return any(isinstance(candidate, _CfgNode | DictConfig) for candidate in candidates)


def _arguments(from_config, args, kwargs) -> dict:
    """The arguments that `from_config` returns, and the keywords that it does not take."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as the first argument!")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(parameter.kind in variadic for parameter in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    arguments = from_config(*args, **known)
    arguments.update({name: value for name, value in kwargs.items() if name not in parameters})
    return arguments
