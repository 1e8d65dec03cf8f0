"""The stand-in has no public name without a user, so that it stays small.

A user is a file of the project, or another module of the stand-in. A name that only unused
names use is found once these are removed.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "compat" / "detectron2"
USERS = ("detclip2", "projects", "configs", "scripts", "tests")


def public_names(stand_in: Path) -> dict[str, set[str]]:
    """Name to the modules whose `__all__` has it, of all modules that are not private."""
    found: dict[str, set[str]] = {}
    for file in sorted(stand_in.rglob("*.py")):
        parts = file.relative_to(stand_in).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(["detectron2", *(part for part in parts if part != "__init__")])
        for name in all_of(file):
            found.setdefault(name, set()).add(module)
    return found


def all_of(file: Path) -> list[str]:
    """`__all__` of a file; without one, what it defines, or imports if it is an `__init__`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body:
        target = None
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and target.id == "__all__":
            return ast.literal_eval(value)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(target, ast.Name):
            names.append(target.id)
        elif isinstance(node, ast.ImportFrom) and file.name == "__init__.py":
            names += [alias.asname or alias.name for alias in node.names]
    return [name for name in names if not name.startswith("_")]


def used_names(files, relative: bool = False) -> set[str]:
    """Names that are imported from Detectron2, read from its modules, or in dotted names of it.

    With `relative`, relative imports are from Detectron2 too.
    """
    used: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        modules = set()  # what Detectron2's modules are called in this file
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                is_detectron2(node.module) or (relative and node.level > 0)
            ):
                used |= {alias.name for alias in node.names}
                used |= set((node.module or "").split("."))
                modules |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if is_detectron2(alias.name):
                        modules.add(alias.asname or "detectron2")
            elif isinstance(node, ast.Constant) and is_detectron2(node.value):
                used.add(node.value.rpartition(".")[2])
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and root_of(node) in modules:
                used.add(node.attr)
    return used


def is_detectron2(name) -> bool:
    return isinstance(name, str) and (name + ".").startswith("detectron2.")


def root_of(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def project_files():
    for folder in USERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if not file.is_relative_to(ROOT / "tests" / "compat"):
                yield file


def test_every_public_name_is_used():
    if not STAND_IN.is_dir():
        pytest.skip("the stand-in is not beside these tests")
    modules = [file for file in STAND_IN.rglob("*.py") if file.name != "__init__.py"]
    used = used_names(project_files()) | used_names(modules, relative=True)
    unused = {
        name: sorted(modules)
        for name, modules in public_names(STAND_IN).items()
        if name not in used
    }
    assert not unused, "\n".join(f"{name}: {', '.join(at)}" for name, at in unused.items())


def test_the_test_finds_names(tmp_path):
    """A checker that finds no names would always pass."""
    stand_in = tmp_path / "detectron2"
    (stand_in / "data").mkdir(parents=True)
    (stand_in / "__init__.py").write_text("from .a import Used, Unused\n")
    (stand_in / "a.py").write_text("__all__ = ['Used', 'Unused']\nother = 1\n")
    (stand_in / "data" / "b.py").write_text("def function(): ...\nCONSTANT = 1\n_private = 2\n")
    (stand_in / "_c.py").write_text("class Hidden: ...\n")
    assert set(public_names(stand_in)) == {"Used", "Unused", "function", "CONSTANT"}

    user = tmp_path / "user.py"
    user.write_text(
        "from detectron2 import Used as U\n"
        "import detectron2.data.b as b\n"
        "import numpy as np\n"
        "b.function()\n"
        "np.CONSTANT\n"
        "target = 'detectron2.data.Named'\n"
        "'detectron2_other.Unused'\n"
    )
    assert used_names([user]) == {"detectron2", "Used", "function", "Named"}
    user.write_text("from .part import Used\n")
    assert used_names([user]) == set()
    assert used_names([user], relative=True) == {"part", "Used"}
