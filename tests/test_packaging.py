"""What is declared agrees with what is there: pins, versions, imports, files, commands."""

import argparse
import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import detclip2
from detclip2.cli import COMMANDS

ROOT = Path(__file__).parent.parent
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
# Distributions whose module has another name.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "hydra": "hydra-core"}
# Declared, though the package itself does not import them: who needs them.
NOT_IMPORTED = {
    "opencv-python-headless": "lvis imports cv2",
    "tensorboard": "torch.utils.tensorboard, behind Detectron2's TensorboardXWriter",
    "pytest-timeout": "pytest's option `timeout`",
    "pytest-xdist": "the Makefile's --numprocesses",
    "ruff": "make lint",
    "mypy": "make types",
}


def setup_cfg(folder: Path = ROOT) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(folder / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> dict[str, Requirement]:
    lines = (line.strip() for line in text.splitlines())
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(item.name): item for item in parsed}


def declared(folder: Path = ROOT) -> dict[str, Requirement]:
    return requirements(setup_cfg(folder)["options"]["install_requires"])


def extra(name: str) -> dict[str, Requirement]:
    return requirements(setup_cfg()["options.extras_require"][name])


def all_declared() -> dict[str, Requirement]:
    found = declared()
    for name in setup_cfg()["options.extras_require"]:
        found |= extra(name)
    return found


def own_files(*patterns: str) -> list[Path]:
    """The files of the repository, without what is ignored; of a bare source tree, all."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [path for line in done.stdout.splitlines() if (path := ROOT / line).is_file()]


def imported_modules(*folders: str) -> dict[str, str]:
    """Top-level names imported anywhere below, each with one file that does it."""
    found: dict[str, str] = {}
    for path in own_files(*(f"{folder}/**.py" for folder in folders)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def distribution(module: str) -> str:
    return canonicalize_name(DISTRIBUTIONS.get(module, module))


# ---- requirements


def test_every_import_is_declared():
    known = {*declared(), *extra("spacy"), *extra("pandas"), *extra("wandb"), *extra("artwork")}
    known |= {"detectron2", "detclip2"}
    imported = imported_modules("detclip2")
    assert not {m: p for m, p in imported.items() if distribution(m) not in known}


def test_every_import_of_tests_and_scripts_is_declared():
    known = {*all_declared(), "detectron2", "detclip2"}
    own = {path.stem for path in own_files("tests/**.py", "scripts/*.py", "projects/**.py")}
    own |= {path.parent.name for path in own_files("tests/**.py", "scripts/**.py")}
    imported = imported_modules("tests", "scripts", "projects", "configs")
    assert not {m: p for m, p in imported.items() if distribution(m) not in known and m not in own}


def test_nothing_is_declared_that_nothing_imports():
    imported = imported_modules("detclip2", "compat", "scripts", "projects", "configs", "tests")
    used = {distribution(module) for module in imported} | {*NOT_IMPORTED}
    unused = set(all_declared()) - used
    assert not unused


def test_every_range_has_an_upper_bound():
    open_ended = [
        str(item)
        for item in all_declared().values()
        if not any(part.operator in ("<", "<=", "==") for part in item.specifier)
    ]
    assert not open_ended


@pytest.mark.parametrize("version", SUPPORTED)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_fits_the_ranges(version: str, machine: str):
    environment = {
        "python_version": version, "python_full_version": f"{version}.1", "sys_platform": "linux",
        "platform_system": "Linux", "platform_machine": machine, "os_name": "posix",
        "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip
    pins: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        for name, pin in requirements(line).items():
            if pin.marker is None or pin.marker.evaluate(environment):
                (specifier,) = pin.specifier
                assert specifier.operator == "=="
                assert name not in pins, f"{name} is pinned twice"
                pins[name] = specifier.version
    wanted = [declared(), declared(ROOT / "compat"), extra("test"), extra("maintain")]
    for name, item in (pair for group in wanted for pair in group.items()):
        assert name in pins, f"{name} is not in requirements.lock"
        assert item.specifier.contains(pins[name]), f"{item}: the lock has {pins[name]}"
    assert "opencv-python" not in pins  # it would overwrite the headless one


def test_supported_pythons_agree_everywhere():
    config = setup_cfg()
    assert config["options"]["python_requires"] == ">=3.10,<3.14"
    classifiers = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert tuple(classifiers) == SUPPORTED
    assert "(3, 10) <= sys.version_info < (3, 14)" in (ROOT / "scripts/setup.sh").read_text()
    assert 'target-version = "py310"' in (ROOT / "pyproject.toml").read_text()


def test_lint_pins_agree_in_all_files():
    pattern = re.compile(r"\b(ruff|mypy) ?== ?([\d.]+)")
    pins: dict[str, set[str]] = {"ruff": set(), "mypy": set()}
    for path in own_files():
        if path.suffix in ("", ".cfg", ".toml", ".md", ".lock", ".txt", ".yaml", ".yml", ".sh"):
            for tool, version in pattern.findall(path.read_text(encoding="utf-8")):
                pins[tool].add(version)
    assert {tool: len(versions) for tool, versions in pins.items()} == {"ruff": 1, "mypy": 1}


# ---- version and files


def test_the_version_stands_in_one_place():
    assert setup_cfg()["metadata"]["version"] == "attr: detclip2.__version__"
    assert f"## {detclip2.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    elsewhere = [
        path
        for path in own_files("*.py", "*.cfg", "*.toml")
        if re.search(rf"version.*\b{re.escape(detclip2.__version__)}\b", path.read_text("utf-8"))
    ]
    assert elsewhere == [ROOT / "detclip2/__init__.py"]


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path):
    tree = tmp_path / "tree"
    for path in own_files("detclip2", "setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        target = tree / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    build = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tree, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"detclip2-{detclip2.__version__}-py3-none-any.whl"
    expected = {path.relative_to(ROOT).as_posix() for path in own_files("detclip2")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "detclip2 = detclip2.cli:main" in archive.read(entry_points).decode()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert names == expected


def test_no_path_of_a_machine_and_no_index_host_is_in_the_repository():
    # Brackets keep the patterns from matching themselves.
    pattern = re.compile(
        r"/[r]oot/|/[h]ome/\w|/[w]ork/|/[U]sers/\w|[p]ythonhosted[.]org|[p]ypi\.org/simple|--[i]ndex-url"
    )
    guilty = {}
    for path in own_files():
        if path.suffix in (".png", ".jpg", ".webp", ".gif", ".safetensors", ".npz", ".tar", ".gz"):
            continue
        if found := pattern.search(path.read_text(encoding="utf-8", errors="replace")):
            guilty[str(path.relative_to(ROOT))] = found.group()
    assert not guilty


# ---- commands


def test_each_command_has_its_module_and_each_module_its_command():
    files = (ROOT / "detclip2/commands").glob("*.py")
    # What several commands share lies beside them, and has nothing to run.
    modules = {path.stem for path in files if "\ndef run(" in path.read_text(encoding="utf-8")}
    assert modules == {name.replace("-", "_") for name in COMMANDS}


def fenced_and_indented_code(text: str) -> str:
    """The code of a Markdown file: blocks, and spans between backticks, one a line."""
    fences = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (.+)$", text, flags=re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", text)
    return "\n".join([*fences, *indented, *spans])


def documentation() -> str:
    """All code in the project's Markdown; a line that ends in a backslash joined to the next."""
    texts = (path.read_text(encoding="utf-8") for path in own_files("*.md", "docs/**.md"))
    return re.sub(r"\\\n\s*", " ", "\n".join(map(fenced_and_indented_code, texts)))


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    documented = set(re.findall(r"^(?:\w+=\S+ )?make (?:\w+=\S+ )?([a-z]+)", documentation(), re.M))
    assert {"demo", "test"} <= documented <= targets


def test_documented_commands_and_their_options_exist():
    documented = re.findall(r"^(?:\.venv/bin/)?detclip2 ([a-z][a-z-]+)(.*)$", documentation(), re.M)
    assert documented
    for command, rest in documented:
        assert command in COMMANDS, f"the documents name a command {command!r}"
        parser = argparse.ArgumentParser()
        module = importlib.import_module(f"detclip2.commands.{command.replace('-', '_')}")
        module.add_arguments(parser)
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
            assert option in parser.format_help(), f"detclip2 {command} has no {option}"


def test_documented_scripts_exist():
    path = r"\b(?:python|bash) ((?:[\w.-]+/)+[\w.-]+\.(?:py|sh))"
    scripts = set(re.findall(path, documentation()))
    assert not {script for script in scripts if not (ROOT / script).is_file()}


def test_documented_links_lead_somewhere():
    dead = set()
    for path in own_files("*.md", "**/*.md"):
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            if "://" not in target and not (path.parent / target).exists():
                dead.add(f"{path.relative_to(ROOT)}: {target}")
    assert not dead


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )


def test_import_and_help_load_no_framework():
    code = """
import contextlib, sys
from detclip2.cli import main
with contextlib.suppress(SystemExit):
    main(["--help"])
heavy = {"torch", "transformers", "detectron2", "timm", "cv2", "numpy", "rich"}
sys.exit(f"loaded: {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


HIDE_DETECTRON2 = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")
sys.meta_path.insert(0, Hide())
"""


def test_without_detectron2_the_command_line_says_what_to_install(tmp_path: Path):
    arguments = ["predict", str(tmp_path / "a.png"), "--names", "cat", "--output", str(tmp_path)]
    done = run_python(
        f"{HIDE_DETECTRON2}\nfrom detclip2.cli import main\nsys.exit(main({arguments!r}))"
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "pip install ./compat" in line


def test_without_detectron2_the_library_says_what_to_install():
    done = run_python(f"{HIDE_DETECTRON2}\nfrom detclip2 import OpenVocabularyPredictor")
    assert done.returncode == 1
    assert "pip install ./compat" in done.stderr.strip().splitlines()[-1]


# ---- set-up


def test_continuous_integration_runs_the_test_command():
    run = ROOT / ".ci/run"
    assert os.access(run, os.X_OK)
    assert run.read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize("script", [".ci/run", "scripts/setup.sh"])
def test_shell_scripts_parse(script: str):
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_setup_says_in_one_sentence_that_python_does_not_fit(tmp_path: Path):
    wrong = tmp_path / "python3"
    wrong.write_text("#!/bin/sh\nexit 1\n")
    wrong.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/setup.sh"), str(tmp_path / "venv")],
        env=os.environ | {"PYTHON": str(wrong)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"setup: PYTHON={wrong} is not a Python of 3.10 to 3.13\n"
    assert not (tmp_path / "venv").exists()
