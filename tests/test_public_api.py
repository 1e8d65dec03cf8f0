"""Public names: all of them can be imported, and lists of them agree."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from detclip2.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ["detclip2", *(f"detclip2.{name}" for name in ("data", "engine", "evaluation",
            "inference", "visualization"))]  # fmt: skip


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        assert name in dir(module)
        # A submodule of the same name would replace the public name.
        assert not isinstance(value, type(sys)), f"{package}.{name} is a module"


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_every_public_name(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {(alias.name, n.module) for n in block.body for alias in n.names}
    (table,) = [node for node in ast.walk(block) if isinstance(node, ast.Dict)]
    lazy = {(key.value, f"{package}.{value.value}")
            for key, value in zip(table.keys, table.values, strict=True)}  # fmt: skip
    assert typed == lazy
    eager = {alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert set(module.__all__) - {"__version__"} <= {name for name, _ in typed} | eager


def test_an_unknown_name_is_an_attribute_error():
    import detclip2

    with pytest.raises(AttributeError, match="'detclip2' has no attribute 'Predictor'"):
        _ = detclip2.Predictor


@pytest.mark.processes
def test_the_package_is_a_program(tmp_path):
    command = [sys.executable, "-m", "detclip2", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: detclip2 ")
    assert all(name in done.stdout for name in COMMANDS)
