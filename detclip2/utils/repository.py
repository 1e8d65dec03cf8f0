"""Folders of the repository that the wheel contains, and the configs in them."""

import difflib
import os
from pathlib import Path

from detclip2.utils.errors import UserError

PACKAGE = Path(__file__).parents[1]


def repository_folder(name: str) -> Path:
    """The path of ``configs``, ``projects`` or ``compat``: in the package (wheel) or beside it."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def fragments() -> dict[str, Path]:
    """The reusable configs, such as "models/detclipv2"."""
    return _python_files(repository_folder("configs"))


def runnable_configs() -> dict[str, Path]:
    """The configs of the projects, such as "DetCLIPv2/emoji_nano_detection"."""
    found: dict[str, Path] = {}
    for root in sorted(repository_folder("projects").glob("*/configs")):
        found |= {f"{root.parent.name}/{name}": path for name, path in _python_files(root).items()}
    return found


def runnable_names() -> list[str]:
    """Names of the runnable configs, with the project only where two projects share a name."""
    full = list(runnable_configs())
    short = [_without_project(name) for name in full]
    return sorted(s if short.count(s) == 1 else f for s, f in zip(short, full, strict=True))


def config_file(name: str) -> Path:
    """The file of a fragment or a runnable config.

    Args:
        name: "models/detclipv2.py", "emoji_nano_detection" or "DetCLIPv2/emoji_nano_detection";
            the ending .py is optional.

    Raises:
        UserError: no config has this name (the nearest are named), or several projects have it.
    """
    key = name.removesuffix(".py")
    runnable = runnable_configs()
    known = fragments() | runnable
    if key in known:
        return known[key]
    matches = [full for full in runnable if _without_project(full) == key]
    if len(matches) == 1:
        return runnable[matches[0]]
    if matches:
        raise UserError(f"{name}: several projects have this config; name {' or '.join(matches)}")
    names = [*runnable_names(), *known]
    near = difflib.get_close_matches(key, dict.fromkeys(names), n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    raise UserError(f"{name}: there is no config of this name; {hint}")


def config_of_user(given: str | os.PathLike[str]) -> str:
    """The path of a file, or of a config of this project by its name.

    Raises:
        UserError: it is neither, and has no file extension.
    """
    text = os.fspath(given)
    if not text or os.path.isfile(text):
        return text
    try:
        return str(config_file(text))
    except UserError:
        if os.path.splitext(text)[1]:
            return text  # loading it reports what is wrong
        raise


def _python_files(root: Path) -> dict[str, Path]:
    files = sorted(root.rglob("*.py"))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def _without_project(name: str) -> str:
    return name.partition("/")[2]
