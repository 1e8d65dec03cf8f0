"""With the wheel installed, the real Detectron2 is imported, or else the stand-in."""

import ast
import os
import shutil
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, source_files

# Prints where detectron2 comes from, in this process and in a new one of each kind, which unpickles
# a function of detectron2 before anything else. There is no __main__ to import again: code comes
# from -c, as in a notebook.
EVERYWHERE = """
import detclip2
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from detectron2.marker import version_and_file

print(*version_and_file())
for method in ("spawn", "forkserver"):
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        print(*pool.submit(version_and_file).result())
"""
MARKER = """
import detectron2
def version_and_file():
    return detectron2.__version__, detectron2.__file__
"""


@pytest.fixture
def stand_in(installed):
    """The stand-in in the wheel, with a function to call in other processes."""
    package = installed.site_packages / "detclip2" / "compat" / "detectron2"
    (package / "marker.py").write_text(MARKER)
    yield package
    (package / "marker.py").unlink()


def fake_real(folder: Path) -> Path:
    """A package that stands for the real Detectron2."""
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.6"')
    (package / "marker.py").write_text(MARKER)
    return package


def found_everywhere(installed, folder: Path) -> tuple[str, Path]:
    """Version and folder of Detectron2 in a process and those it starts, which must agree."""
    done = installed.run(folder, "python", "-c", EVERYWHERE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    ((version, file),) = {tuple(line.split(" ", 1)) for line in lines}
    return version, Path(file).parent


def test_without_the_real_one_every_process_imports_the_stand_in(installed, stand_in, tmp_path):
    assert found_everywhere(installed, tmp_path) == ("0.6+subset", stand_in)


def test_without_detclip2_nothing_is_found(installed, tmp_path):
    """Other programs of the environment do not find the stand-in."""
    code = "import importlib.util; print(importlib.util.find_spec('detectron2'))"
    assert installed.run(tmp_path, "python", "-c", code).stdout == "None\n"


def test_the_real_one_wins_whenever_it_is_installed(installed, stand_in, tmp_path):
    real = fake_real(installed.site_packages)
    try:
        assert found_everywhere(installed, tmp_path) == ("0.6", real)
    finally:
        shutil.rmtree(real)
    assert found_everywhere(installed, tmp_path) == ("0.6+subset", stand_in)
    real = fake_real(installed.site_packages)
    try:
        assert found_everywhere(installed, tmp_path) == ("0.6", real)
    finally:
        shutil.rmtree(real)


def test_the_real_one_wins_in_editable_mode(installed, stand_in, tmp_path):
    """pip puts a finder into sys.meta_path for it, behind the one that reads sys.path."""
    real = fake_real(tmp_path / "clone")
    finder = f"""
import sys
from importlib.machinery import PathFinder
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "detectron2":
            return PathFinder.find_spec(name, [{str(real.parent)!r}])
sys.meta_path.append(Editable)
"""
    module = installed.site_packages / "editable_finder_of_detectron2.py"
    hook = module.with_suffix(".pth")
    module.write_text(finder)
    hook.write_text(f"import {module.stem}\n")
    try:
        assert found_everywhere(installed, tmp_path) == ("0.6", real)
    finally:
        module.unlink()
        hook.unlink()


def test_the_real_one_wins_on_a_path_that_is_added_later(installed, tmp_path):
    real = fake_real(tmp_path / "later")
    code = f"""
import detclip2, importlib, sys
sys.path.append({str(real.parent)!r})
importlib.invalidate_caches()
import detectron2
print(detectron2.__file__)
"""
    done = installed.run(tmp_path, "python", "-c", code)
    assert done.stdout.strip() == str(real / "__init__.py"), done.stderr


def test_the_path_of_a_process_can_be_passed_on(installed, stand_in, tmp_path):
    """As launchers do: PYTHONPATH precedes installed packages, and yet the real one wins."""
    code = """
import detclip2, os, subprocess, sys
environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
code = "import detectron2.marker as m; print(m.version_and_file()[1])"
subprocess.run([sys.executable, "-c", code], env=environment, check=True)
"""
    done = installed.run(tmp_path, "python", "-c", code)
    assert done.stdout.strip() == str(stand_in / "__init__.py"), done.stderr
    real = fake_real(installed.site_packages)
    try:
        done = installed.run(tmp_path, "python", "-c", code)
        assert done.stdout.strip() == str(real / "__init__.py"), done.stderr
    finally:
        shutil.rmtree(real)


def test_a_name_missing_from_the_stand_in_is_reported(installed, tmp_path):
    code = "import detclip2; from detectron2.utils.registry import Nothing"
    done = installed.run(tmp_path, "python", "-c", code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "Nothing is not part of detectron2 0.6+subset, the stand-in" in last


def test_import_costs_little(installed, tmp_path):
    """Importing detclip2 imports neither a framework nor the stand-in."""
    code = "import sys, detclip2; print(*{'torch', 'numpy', 'detectron2'} & set(sys.modules))"
    assert installed.run(tmp_path, "python", "-c", code).stdout == os.linesep


def test_programs_of_the_repository_import_detclip2_first():
    """Otherwise they find no Detectron2 if the real one is not installed."""
    late = []
    for path in source_files(("scripts", "projects")):
        text = (ROOT / path).read_text("utf-8") if path.suffix == ".py" else ""
        if '\nif __name__ == "__main__":' not in text:
            continue
        imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
        modules = [getattr(n, "module", None) or n.names[0].name for n in imports]
        roots = [module.partition(".")[0] for module in modules]
        if "detectron2" in roots and "detclip2" not in roots[: roots.index("detectron2")]:
            late.append(str(path))
    assert not late
