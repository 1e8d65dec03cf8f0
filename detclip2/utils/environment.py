"""Checks of the environment against the version ranges that ``setup.cfg`` declares.

Frameworks are imported only on demand, so that a broken installation can be reported.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from detclip2.utils.errors import MISSING_DETECTRON2, UserError, missing_package
from detclip2.utils.quiet import without_upstream_warnings

# Distribution -> its module, if the names differ.
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "hydra-core": "hydra",
    "pyyaml": "yaml",
}


@dataclass(frozen=True)
class Finding:
    """A row of the report: the subject, the state, and the problem with its remedy."""

    what: str
    found: str
    expected: str = ""
    problem: str = ""  # empty: none
    needed: bool = True  # whether everything depends on it


def findings() -> Iterator[Finding]:
    """Everything that ``detclip2 check-env`` reports, in its order."""
    yield from _versions()
    yield _detectron2()
    yield _device()
    yield _emoji_font()
    yield _resources()


def require_packages(program: str) -> None:
    """End a script with one sentence and exit code 2 if a package that it needs is not installed.

    Args:
        program: name in front of the sentence.
    """
    try:
        with without_upstream_warnings():
            for module in ("detectron2", "detclip2.modeling.meta_arch.detclipv2"):
                importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (sentence := missing_package(error)):
            raise
        print(f"{program}: {sentence}", file=sys.stderr)
        sys.exit(2)


def requirements() -> list[Requirement]:
    """Requirements of the installed detclip2 for this Python and platform, without extras."""
    declared = importlib.metadata.requires("detclip2") or []
    parsed = [Requirement(line) for line in declared]
    return [item for item in parsed if not item.marker or item.marker.evaluate({"extra": ""})]


def _versions() -> Iterator[Finding]:
    try:
        supported = importlib.metadata.metadata("detclip2")["Requires-Python"]
        declared = requirements()
    except importlib.metadata.PackageNotFoundError:
        problem = "detclip2 runs from its source without being installed; `pip install -e .`"
        yield Finding("detclip2", "not installed", problem=problem)
        return
    python, wanted = platform.python_version(), SpecifierSet(supported)
    problem = "" if python in wanted else f"Python {python} is not supported; use {wanted}"
    yield Finding("python", python, _readable(wanted), problem)
    for requirement in declared:
        yield _version(requirement)


def _version(requirement: Requirement) -> Finding:
    name, wanted = requirement.name, _readable(requirement.specifier)
    remedy = f"`pip install '{requirement}'`"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", wanted, f"{name} is missing; {remedy}")
    if trouble := _import_trouble(MODULES.get(name.lower(), name.replace("-", "_"))):
        if name == "opencv-python-headless":  # often overwritten by opencv-python
            remedy = (
                "`pip uninstall -y opencv-python opencv-python-headless`, "
                "then `pip install opencv-python-headless`"
            )
        problem = f"{name} {version} does not import ({trouble}); {remedy}"
        return Finding(name, version, wanted, problem)
    if not requirement.specifier.contains(version, prereleases=True):
        problem = f"{name} {version} is outside the tested range {wanted}; {remedy}"
        return Finding(name, version, wanted, problem, needed=False)
    return Finding(name, version, wanted)


def _readable(specifier: SpecifierSet) -> str:
    return ", ".join(sorted(map(str, specifier), reverse=True))  # ">=1, <2", lower bound first


def _detectron2() -> Finding:
    what = "detectron2"
    if trouble := _import_trouble(what):
        if importlib.util.find_spec(what) is None:
            return Finding(what, "missing", problem=MISSING_DETECTRON2)
        return Finding(what, "broken", problem=f"detectron2 does not import ({trouble})")
    module = sys.modules[what]
    if module.__file__ is None:
        (folder, *_) = module.__path__
        problem = f"the folder {folder} is taken for the package detectron2; run elsewhere"
        return Finding(what, f"a folder ({folder})", problem=problem)
    kind = "stand-in" if module.__version__.endswith("+subset") else "real"
    found = f"{module.__version__} ({kind}, {os.path.dirname(module.__file__)})"
    if trouble := _import_trouble("detectron2.modeling"):
        problem = (
            f"detectron2 {module.__version__} does not import ({trouble}); a real Detectron2 has "
            "to be built against the torch that is installed: docs/install.md"
        )
        return Finding(what, found, problem=problem)
    return Finding(what, found)


def _device() -> Finding:
    try:
        import torch
    except Exception:  # reported among the versions
        return Finding("device", "unknown without torch")
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return Finding("device", f"{count} x {card.name}, {card.total_memory / 2**30:.0f} GiB")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("device", f"cpu, {cores} cores ({platform.machine()})")


def _emoji_font() -> Finding:
    what = "emoji font"
    try:
        from detclip2.data.emojiscenes.sprites import find_emoji_font

        return Finding(what, str(find_emoji_font()))
    except UserError as error:
        return Finding(what, "missing", problem=str(error), needed=False)
    except ImportError as error:
        return Finding(what, f"unknown ({error})", needed=False)


def _resources() -> Finding:
    folder = files("detclip2") / "resources"
    entries = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    names = sorted(name for name in entries if not name.startswith("__"))
    if not names:
        problem = "the installed package has no resources; install it again from its source"
        return Finding("resources", "missing", problem=problem)
    return Finding("resources", ", ".join(names))


def _import_trouble(module: str) -> str:
    """The reason why `module` cannot be imported, in one line; empty if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken build raises anything: OSError, RuntimeError, ...
        return f"{type(error).__name__}: {str(error).strip().partition(os.linesep)[0]}"
    return ""
