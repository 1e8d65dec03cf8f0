"""LazyConfigs: load, override, check and build them, with an error message for each mistake."""

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from detclip2.data_config import change_texts, check_paths, check_resolved, read_data_config
from detclip2.modeling.thresholds import MEANINGS, DetectionThresholds
from detclip2.utils.errors import UserError, shown
from detclip2.utils.moved_targets import with_present_names
from detclip2.utils.paths import is_outside
from detclip2.utils.repository import config_file

OWN_FOLDER = "folder://"
"""Before a path of the node ``model`` in a .yaml config: it is relative to the config's folder."""
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^{}]*\}")


@dataclass(frozen=True)
class InferenceSettings:
    """The node ``inference`` of a config."""

    min_size: int
    """Images are resized so that the shorter edge has this length, px ..."""
    max_size: int
    """... unless the longer edge would exceed this one, px."""
    batch_size: int = 1
    """Images per forward pass."""
    thresholds: DetectionThresholds = field(default_factory=DetectionThresholds)
    """Four keys of the node, under their own names; None leaves a setting to the model."""


def get_config(name: str, keys: str | tuple[str, ...] | None = None) -> Any:
    """Load a config of this project anew, from a checkout or from the wheel.

    ``get_config("models/detclipv2.py").swin_t`` is a fragment of ``configs/``,
    ``get_config("emoji_nano_detection")`` a runnable config of a project.

    Args:
        name: see `detclip2.utils.repository.config_file`.
        keys: a name in the file, or several, as for Detectron2's ``LazyConfig.load``.

    Returns:
        The config, or the value of ``keys``, a tuple for several.

    Raises:
        UserError: there is no config of this name, it has no such key, or it does not run.
    """
    return _load(config_file(name), keys)


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any], trust_config: bool = False
) -> tuple[DictConfig, str]:
    """Load a config from a .py or .yaml file; a loaded config is returned.

    Loading a .py file runs it. A .yaml file is data: what it can build is limited, see
    `detclip2.data_config`. Paths after `OWN_FOLDER` become absolute.

    Args:
        source: path of the file, or a loaded config.
        trust_config: treat a .yaml file as a program too: any target, Python objects, and
            interpolations that read the environment.

    Returns:
        The config, and its name in messages.

    Raises:
        UserError: the file is missing, not of these kinds, does not run, or is data that names more
            than it may.
    """
    cfg, name = _read(source, trust_config)
    _find_own_files(cfg, source, name)
    return cfg, name


def _read(
    source: str | os.PathLike[str] | Mapping[str, Any], trust_config: bool
) -> tuple[DictConfig, str]:
    if isinstance(source, Mapping):
        cfg = source if isinstance(source, DictConfig) else _to_omegaconf(source)
        return cfg, "the config"
    if not os.fspath(source):
        raise UserError("no config is given: name a .py or .yaml file")
    path = Path(source)
    if path.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"{path}: a config is a .py or .yaml file")
    if not os.path.isfile(path):
        raise UserError(f"{path}: this config does not exist")
    if not (trust_config or is_program(path)):
        return _data_config(path), str(path)
    cfg = _load(path)
    if not isinstance(cfg, DictConfig):
        raise UserError(f"{path}: this config holds no keys")
    if not is_program(path):
        cfg = _to_omegaconf(with_present_names(OmegaConf.to_container(cfg, resolve=False)))
    return cfg, str(path)


def load_model_config(
    source: str | os.PathLike[str] | Mapping[str, Any], trust_config: bool = False
) -> tuple[DictConfig, str]:
    """Load the config of a model that is to be used; see `load_config`.

    Raises:
        UserError: as `load_config`, or a .yaml file names a file outside of its folder for the
            model.
    """
    cfg, name = _read(source, trust_config)
    if not (trust_config or isinstance(source, Mapping) or is_program(source)):
        check_paths(cfg.get("model"), name)
    _find_own_files(cfg, source, name)
    return cfg, name


def _find_own_files(
    cfg: DictConfig, source: str | os.PathLike[str] | Mapping[str, Any], name: str
) -> None:
    """Make paths after `OWN_FOLDER` absolute, in the node ``model`` of a .yaml file."""
    if isinstance(source, Mapping) or is_program(source):
        return
    # Not the real path: a model folder of the hub's cache consists of links.
    folder = os.path.dirname(os.path.abspath(source))

    def absolute(text: str) -> str:
        if not text.startswith(OWN_FOLDER):
            return text
        own = text.removeprefix(OWN_FOLDER)
        if is_outside(own):
            raise UserError(f"{name}: model: {text!r} leads out of the config's folder")
        return os.path.join(folder, own)

    if OmegaConf.is_config(model := cfg.get("model")):
        change_texts(model, absolute)


def _data_config(path: Path) -> DictConfig:
    content = read_data_config(path)
    try:
        cfg = _to_omegaconf(content)
    except OmegaConfBaseException as error:  # a key or a value of another type
        raise UserError(f"{path}: this config cannot be loaded: {reason_of(error)}") from error
    check_resolved(cfg, str(path))
    return cfg


def is_program(config: str | os.PathLike[str]) -> bool:
    """Whether a config file is a LazyConfig in Python, which runs when it is loaded."""
    return Path(config).suffix == ".py"


def apply_overrides(
    cfg: DictConfig, overrides: Sequence[str], name: str = "the config"
) -> DictConfig:
    """Change keys of a config, in place, by strings such as "train.max_iter=100" (hydra's grammar).

    Raises:
        UserError: a string has another form, an option of the command line is among them, or the
            config lacks a key. Keys beside a ``_target_`` are its arguments, which `check_keys`
            checks.
    """
    for override in overrides:
        if override.startswith("-"):  # Detectron2's parser takes all after a key for keys
            raise UserError(f"{override}: options come before the first KEY=VALUE")
        try:
            _check_overridden(cfg, override.partition("=")[0].lstrip("+~"), name)
            LazyConfig.apply_overrides(cfg, [override])
        except UserError:
            raise
        except Exception as error:  # from hydra, omegaconf or Detectron2
            raise UserError(
                f"{name}: {override!r} cannot be applied: {reason_of(error)}"
            ) from error
    return cfg


def fill_environment(cfg: DictConfig) -> DictConfig:
    """Put the values of environment variables in place of "${oc.env:NAME}"; changed in place.

    A config that is saved is data, which reads no environment (`detclip2.data_config`). References
    to variables that are not set stay, and are reported when they are needed.
    """

    def value_of(reference: re.Match[str]) -> str:
        try:
            return str(OmegaConf.create({"value": reference[0]}).value)
        except OmegaConfBaseException:
            return reference[0]

    change_texts(cfg, lambda text: _ENVIRONMENT.sub(value_of, text))
    return cfg


def build(cfg: DictConfig, path: str, name: str = "the config") -> Any:
    """Build the object that a node of a config describes.

    Args:
        cfg: the config.
        path: path of the node, such as "dataloader.train".
        name: name of the config in messages.

    Raises:
        UserError: the node is missing, one of its keys is unknown (the nearest known key is named),
            or it cannot be built.
    """
    node: Any = cfg
    for key in path.split("."):
        node = _required(node, key, name)
    try:
        check_keys(node, path, name)
        return instantiate(node)
    except UserError:
        raise
    except Exception as error:  # constructors raise anything for wrong values
        raise UserError(f"{name}: {path} cannot be built: {reason_of(error)}") from error


def build_model(cfg: DictConfig, name: str = "the config") -> nn.Module:
    """Build the model of ``cfg.model``, with the weights from its constructor.

    Raises:
        UserError: see `build`.
    """
    model = build(cfg, "model", name)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name}: `model` describes a {type(model).__name__}, not a model")
    return model


def inference_settings(cfg: DictConfig, name: str = "the config") -> InferenceSettings:
    """Read the node ``cfg.inference``.

    Raises:
        UserError: a key is missing or unknown, or a size is not positive and finite.
    """
    node = _required(cfg, "inference", name)
    require_keys(node, f"{name}: inference")
    known = [f.name for f in fields(InferenceSettings) if f.name != "thresholds"] + [*MEANINGS]
    for key in node:
        if key not in known:
            raise UserError(unknown_key(name, "inference", str(key), known))
    for key in ("min_size", "max_size"):
        _required(node, key, f"{name}: inference")
    try:
        thresholds = DetectionThresholds(**{key: node[key] for key in node if key in MEANINGS})
        others = {key: node[key] for key in node if key not in MEANINGS}
        settings = InferenceSettings(**others, thresholds=thresholds)
        sizes = (settings.min_size, settings.max_size, settings.batch_size)
        positive = min(sizes) > 0 and max(sizes) < math.inf
    except UserError as error:
        raise UserError(f"{name}: inference: {error}") from None
    except (TypeError, OmegaConfBaseException) as error:
        raise UserError(f"{name}: `inference` is wrong: {reason_of(error)}") from error
    if not positive:
        raise UserError(
            f"{name}: inference: sizes must be positive and finite, but it is {dict(node)}"
        )
    return settings


def check_keys(cfg: Any, path: str, name: str) -> None:
    """Check that every key beside a ``_target_`` is an argument of that target.

    Args:
        cfg: the node to check, with its subnodes.
        path: path of the node in the config, e.g. "model".
        name: name of the config in messages.

    Raises:
        UserError: a key is unknown (the nearest argument is named), a target cannot be imported, or
            a value refers to a missing key.
    """
    try:
        nodes = list(_targets(cfg, path))
    except OmegaConfBaseException as error:
        raise UserError(f"{name}: {path} cannot be read: {reason_of(error)}") from error
    for node_path, node in nodes:
        target = node["_target_"]
        if isinstance(target, str):
            try:
                target = locate(target)
            except Exception as error:  # importing runs code
                where = f"{name}: {node_path}: {node['_target_']}"
                raise UserError(f"{where} cannot be imported: {reason_of(error)}") from error
        arguments = _arguments(target)
        for key in node:
            if arguments is not None and key != "_target_" and key not in arguments:
                raise UserError(unknown_key(name, node_path, str(key), arguments))


def unknown_key(name: str, path: str, key: str, known: Iterable[str]) -> str:
    """The message for an unknown key, with the nearest known keys."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    return f"{name}: {path} has no key {key!r}; {hint}"


def _load(path: Path, keys: str | tuple[str, ...] | None = None) -> Any:
    try:
        return LazyConfig.load(str(path), keys)
    except UserError:
        raise
    except Exception as error:  # a config is a program: anything may go wrong in it
        if keys is not None and isinstance(error, KeyError):
            raise UserError(f"{path}: this config has no key {error}") from error
        raise UserError(f"{path}: this config cannot be loaded: {reason_of(error)}") from error


def _check_overridden(cfg: DictConfig, key: str, name: str) -> None:
    node: Any = cfg
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not isinstance(node, Mapping):
            return
        is_last = i + 1 == len(parts)
        if part not in node.keys():  # noqa: SIM118  ("in node" is false for what does not resolve)
            if is_last and "_target_" in node:
                return
            raise UserError(unknown_key(name, ".".join(parts[:i]) or "the top", part, node))
        node = None if is_last else node.get(part)


def _targets(cfg: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(cfg, Mapping):
        if "_target_" in cfg:
            yield path, cfg
        for key, value in cfg.items():
            yield from _targets(value, f"{path}.{key}")
    elif isinstance(cfg, Sequence) and not isinstance(cfg, str | bytes):
        for i, value in enumerate(cfg):
            yield from _targets(value, f"{path}[{i}]")


def _arguments(target: Callable[..., Any]) -> list[str] | None:
    """Names of a callable's arguments; a class passes others to its base. None: any, or unknown."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    named = [name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(parameters):
        return named
    base: Any = getattr(target, "__base__", None)
    is_own = getattr(base, "__module__", "").startswith("detclip2.")  # others may take anything
    inherited = _arguments(base) if is_own else None
    return None if inherited is None else [*inherited, *named]


def require_keys(node: Any, name: str) -> None:
    """Check that a node has keys.

    Raises:
        UserError: it is a list or a value.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{name}: expected keys and their values, not {shown(node)}")


def _required(cfg: Any, key: str, name: str) -> Any:
    require_keys(cfg, name)
    try:
        value = cfg.get(key)
    except OmegaConfBaseException as error:
        raise UserError(f"{name}: key {key!r} cannot be read: {reason_of(error)}") from error
    if value is None:
        near = difflib.get_close_matches(key, [str(k) for k in cfg if k != key], n=1)
        raise UserError(
            f"{name}: key {key!r} is missing" + (f"; is {near[0]!r} misspelt?" if near else "")
        )
    return value


def _to_omegaconf(source: Mapping[str, Any]) -> DictConfig:
    cfg = OmegaConf.create(dict(source), flags={"allow_objects": True})
    assert isinstance(cfg, DictConfig)
    return cfg


def reason_of(error: BaseException) -> str:
    """The first line of an error of a library, for a message."""
    if unset := re.search(r"Environment variable '(\w+)' not found", str(error)):
        return (
            f"the environment variable {unset[1]} is not set: it names the folder of the data sets "
            f"(export {unset[1]}=/path/to/datasets)"
        )
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
