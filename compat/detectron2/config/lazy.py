"""Configs in python, which describe objects before they are built."""

import ast
import builtins
import logging
import os
import sys
import types
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import is_dataclass

import cloudpickle
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode

from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import _convert_target_to_string

__all__ = ["LazyCall", "LazyConfig"]

_OBJECTS = {"allow_objects": True}
_YAML = (".yaml", ".yml")


class LazyCall:
    """A call that is described but not executed: `LazyCall(f)(a=1)` is {"_target_": f, "a": 1}.

    `instantiate` makes it. `f` is a callable, its dotted name, or a description of it.
    """

    def __init__(self, target):
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(
                f"LazyCall takes a callable, its name, or a description of it, not {target}."
            )
        self._target = target

    def __call__(self, **kwargs):
        # omegaconf would take a dataclass for a schema, and not for the thing to call.
        is_schema = is_dataclass(self._target)
        target = _convert_target_to_string(self._target) if is_schema else self._target
        return DictConfig(content={**kwargs, "_target_": target}, flags=_OBJECTS)


class LazyConfig:
    """Load, change and save configs, which are omegaconf objects that may hold LazyCalls."""

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None):
        """As load(), with a path relative to the caller's file."""
        caller = sys._getframe(1).f_code.co_filename
        assert caller != "<string>", "load_rel Unable to find caller"
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None):
        """Load a config file. A config is code: load none that you would not run.

        Args:
            filename: a .py, .yaml or .yml file.
            keys: a name or a tuple of names in it; by default all dicts, lists and dict or list
                configs whose name does not start with `_`.

        Returns:
            The config of that name, a tuple of the configs, or a DictConfig of all.

        Raises:
            ValueError: another kind of file.
            SyntaxError: the file is no python.
            KeyError: the file has no such name.
        """
        filename = filename.replace("/./", "/")
        extension = os.path.splitext(filename)[1]
        if extension not in (".py", *_YAML):
            raise ValueError(f"{filename} is no config: it has to be a python or yaml file.")
        if extension in _YAML:
            with PathManager.open(filename) as file:
                content = OmegaConf.create(yaml.unsafe_load(file), flags=_OBJECTS)
        else:
            content = vars(_run_config(filename))
        if isinstance(keys, str):
            return _as_config(content[keys])
        if keys is not None:
            return tuple(_as_config(content[key]) for key in keys)
        if extension in _YAML:
            return content
        configs = {
            name: _as_config(value)
            for name, value in content.items()
            if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
        }
        return DictConfig(configs, flags=_OBJECTS)

    @staticmethod
    def save(cfg, filename: str):
        """Save a config as yaml; values that yaml cannot restore go to `filename`.pkl too."""
        logger = logging.getLogger(__name__)
        try:
            cfg = deepcopy(cfg)
        except Exception:
            pass  # then callables have yaml's long form
        else:
            _name_targets(cfg)
        try:
            container = OmegaConf.to_container(
                # Interpolations stay interpolations, and dataclasses stay dataclasses.
                cfg,
                resolve=False,
                structured_config_mode=SCMode.INSTANTIATE,
            )
            text = yaml.dump(container, default_flow_style=None, allow_unicode=True, width=9999)
            with PathManager.open(filename, "w") as file:
                file.write(text)
            yaml.unsafe_load(text)
        except Exception as error:
            logger.warning(f"{filename} cannot be loaded again, as yaml cannot hold it: {error}")
            try:
                with PathManager.open(filename + ".pkl", "wb") as file:
                    cloudpickle.dump(cfg, file)
                logger.warning(f"Config is saved using cloudpickle at {filename}.pkl.")
            except Exception as pickle_error:
                logger.warning(f"Nor can pickle hold it: {pickle_error}")

    @staticmethod
    def apply_overrides(cfg, overrides: list[str]):
        """Change a config in place by strings in hydra's grammar, such as "a.b=1".

        Raises:
            KeyError: an inner part of a key exists and is not a config.
            NotImplementedError: "~a", which would delete.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(overrides):
            key = override.key_or_group
            if override.is_delete():
                raise NotImplementedError(f"{override.input_line}: a key cannot be deleted.")
            parts = key.split(".")
            for end in range(1, len(parts)):
                prefix = ".".join(parts[:end])
                parent = OmegaConf.select(cfg, prefix, default=None)
                if parent is None:
                    break  # update creates it
                if not OmegaConf.is_config(parent):
                    raise KeyError(
                        f"Trying to update key {key}, but {prefix} is not a config, "
                        f"but has type {type(parent)}."
                    )
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return cfg

    @staticmethod
    def to_py(cfg, prefix: str = "cfg."):
        """The config as lines of python, for reading only; formatted if black is installed."""
        text = "\n".join(_assignments(OmegaConf.to_container(cfg, resolve=True), prefix))
        try:
            import black
        except ImportError:
            return text
        try:
            return black.format_str(text, mode=black.Mode())
        except black.InvalidInput:
            return text


def _as_config(value):
    return DictConfig(value, flags=_OBJECTS) if isinstance(value, dict) else value


def _run_config(filename: str) -> types.ModuleType:
    """Run a python config in a module of its own, where relative imports mean config files."""
    with PathManager.open(filename, "r") as file:
        source = file.read()
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise SyntaxError(f"Config file {filename} has syntax error!") from error
    module = types.ModuleType(f"detectron2._config.{os.path.basename(filename)}")
    module.__file__ = filename

    def import_(name, globals=None, locals=None, fromlist=(), level=0):
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        imported = _run_config(
            _relative_file(filename, name, level)
        )  # a new module: it is not shared
        for key in fromlist or ():
            if key in vars(imported):
                setattr(imported, key, _as_config(vars(imported)[key]))
        return imported

    module.__builtins__ = {**vars(builtins), "__import__": import_}
    exec(compile(source, filename, "exec"), vars(module))
    return module


def _relative_file(importer: str, name: str, level: int) -> str:
    """The config file that `from <level dots><name> import` means in the file `importer`."""
    folder = importer
    for _ in range(level):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, *name.split("."))
    if name and PathManager.isfile(path + ".py"):
        return path + ".py"
    if not name or PathManager.isdir(path):
        raise ImportError(
            f"Cannot import from the folder {path}: in a config file, a relative import can only "
            "be of another config file."
        )
    raise ImportError(f"Cannot import {name} from {importer}: {path}.py does not exist.")


def _name_targets(cfg) -> None:
    """Replace the callables in `_target_` by their names, which are readable in yaml."""
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg and callable(cfg._target_):
            with suppress(AttributeError):  # it has no name
                cfg._target_ = _convert_target_to_string(cfg._target_)
        for value in cfg.values():
            _name_targets(value)
    elif isinstance(cfg, ListConfig):
        for value in cfg:
            _name_targets(value)


def _assignments(node: dict, prefix: str) -> list[str]:
    """A line `<prefix><key>=<value>` for each value in plain dicts."""
    if "_target_" in node:
        return [prefix + _expression(node)]
    lines = []
    for key, value in sorted(node.items()):
        if isinstance(value, dict) and "_target_" not in value:
            lines += _assignments(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={_expression(value)}")
    return lines


def _expression(value) -> str:
    if isinstance(value, dict) and "_target_" in value:
        target = value["_target_"]
        name = target if isinstance(target, str) else _convert_target_to_string(target)
        arguments = sorted(item for item in value.items() if item[0] != "_target_")
        return f"{name}({', '.join(f'{key}={_expression(item)}' for key, item in arguments)})"
    if isinstance(value, dict):
        items = sorted(value.items())
        return "{" + ", ".join(f"{key!r}: {_expression(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_expression(item) for item in value) + "]"
    return repr(value)
