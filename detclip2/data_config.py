"""Configs that are data: yaml files, read and checked so that nothing in them runs code.

A LazyConfig in a .py file is a program. A .yaml file, such as ``config.yaml`` of a model folder, is
data that came from somewhere: it may build the targets of `detclip2.allowed_targets` and nothing
else, unless the user trusts it.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detclip2.allowed_targets import ALLOWED_TARGETS
from detclip2.utils.errors import UserError
from detclip2.utils.moved_targets import with_present_names
from detclip2.utils.paths import is_outside

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_ENTRIES = 100_000
TRUST = "if you know who wrote it, --trust-config (in Python: trust_config=True) allows it"

# Arguments that libraries take from the config, and that run programs or send data.
_RUNNING = {
    "train.compile.options": "options of the compiler name programs to run",
    "train.wandb.settings": "settings of W&B name the server that gets the user's key",
}

# A reference to another key, such as ${train.seed} or ${..lr}. OmegaConf's resolvers have a colon:
# ${oc.env:HOME} reads the environment, ${oc.create:...} makes nodes that were never checked.
_REFERENCE = re.compile(r"\$\{\.*[\w-]+(?:\.[\w-]+|\[[\w-]+\])*\}")


def read_data_config(path: Path) -> dict[str, Any]:
    """The content of a yaml config, checked, with present names of targets that moved.

    Args:
        path: an existing file.

    Raises:
        UserError: the file is not yaml of plain values, is too large or nested too deeply, or
            `check_data` refuses it.
    """
    content = _read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: this config holds no keys")
    for _ in _entries(content, str(path), ""):
        pass  # counted, before it is copied: a few aliases can stand for billions of entries
    content = with_present_names(content)
    check_data(content, str(path))
    return content


def check_data(content: Any, name: str) -> None:
    """Check the whole of a config of plain values, before anything is built.

    Args:
        content: dicts, lists and values, with interpolations as they are written.
        name: name of the config in messages.

    Raises:
        UserError: a ``_target_`` is no name of `ALLOWED_TARGETS`, a key is hydra's or OmegaConf's
            own, or a text has an interpolation other than one reference to a key.
    """
    for where, key, value in _entries(content, name, ""):
        if key == "_target_":
            _check_target(value, where, name)
        elif isinstance(key, str) and key.startswith("_") and key.endswith("_"):
            raise UserError(f"{name}: {where}: a config that is data cannot have this key; {TRUST}")
        for text in (key, value):
            if isinstance(text, str) and "${" in _REFERENCE.sub("", text, count=1):
                raise UserError(
                    f"{name}: {where}: {text[:80]!r}: a config that is data may refer to one other "
                    f"key in a text, such as ${{train.seed}}, and to nothing else; {TRUST}"
                )


def check_paths(model: Any, name: str) -> None:
    """Check that the node ``model`` of a model folder's config names no file outside of the folder.

    Raises:
        UserError: a value is an absolute path, or climbs with "..".
    """
    for where, _, value in _entries(model, name, "model"):
        if isinstance(value, str) and is_outside(value.removeprefix("resource://")):
            raise UserError(f"{name}: {where} is {value!r}, outside of the model's folder; {TRUST}")


def check_resolved(cfg: Any, name: str) -> None:
    """Check a config whose references are followed.

    Raises:
        UserError: they make it endless or huge, or a key of `_RUNNING` has a value.
    """
    for where, _, value in _entries(cfg, name, ""):
        if where in _RUNNING and value is not None:
            raise UserError(f"{name}: {where}: {_RUNNING[where]}; {TRUST}")


def change_texts(tree: Any, change: Callable[[str], str]) -> None:
    """Change each text of a config, as it is written, in place."""

    def visit(node: Any, plain: Any) -> None:
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            if isinstance(value, dict | list):
                visit(node[key], value)
            elif isinstance(value, str) and (changed := change(value)) != value:
                node[key] = changed

    visit(tree, OmegaConf.to_container(tree, resolve=False))


def _check_target(target: Any, where: str, name: str) -> None:
    if isinstance(target, str) and target in ALLOWED_TARGETS:
        return
    near = difflib.get_close_matches(str(target), ALLOWED_TARGETS, n=1, cutoff=0.8)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(
        f"{name}: {where} is {str(target)[:80]!r}{hint}, which a config that is data cannot build, "
        f"as it may run any code; {TRUST}"
    )


def _read_yaml(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise UserError(f"{path}: this config has more than {MAX_BYTES:,} bytes")
        depth = 0
        # The parser gives events without recursion, unlike the construction below.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _too_deep(path)
        return yaml.load(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: this config cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        if isinstance(error, yaml.constructor.ConstructorError) and "python/" in problem:
            problem += f": it may run any code; {TRUST}"
        raise UserError(f"{path}{where}: this config cannot be loaded: {problem}") from error
    except UserError:
        raise
    except ValueError as error:  # of a number or a date
        raise UserError(f"{path}: this config cannot be loaded: {error}") from error


def _entries(content: Any, name: str, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Every key or index of a tree, with its path and its value, in order.

    Raises:
        UserError: there are more than `MAX_ENTRIES`, or more than `MAX_DEPTH` levels.
    """
    count, waiting = 0, [(where, content, 0)]
    while waiting:
        where, node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep(name)
        inner = []
        for key, value in _items(node):
            count += 1
            if count > MAX_ENTRIES:
                raise UserError(
                    f"{name}: this config has more than {MAX_ENTRIES:,} entries, with those that "
                    "its aliases and references repeat"
                )
            path = f"{where}[{key}]" if isinstance(node, list | ListConfig) else f"{where}.{key}"
            path = path.lstrip(".")
            yield path, key, value
            inner.append((path, value, depth + 1))
        waiting += reversed(inner)


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple | set):
        yield from enumerate(node)
    elif isinstance(node, DictConfig | ListConfig):
        keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            try:
                yield key, node[key]
            except OmegaConfBaseException:  # reported when the node is built, if it is
                yield key, None


def _too_deep(name: str | Path) -> UserError:
    return UserError(f"{name}: this config is nested more than {MAX_DEPTH} levels deep")
