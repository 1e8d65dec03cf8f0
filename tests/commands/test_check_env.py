"""`detclip2 check-env` reports missing and broken parts of an environment, and never fails."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import types

import pytest
from rich.console import Console

from detclip2 import cli
from detclip2.commands import check_env
from detclip2.utils import environment
from detclip2.utils.environment import Finding, findings


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch):
    """Replace the requirements that detclip2 declares."""

    def set_requirements(*lines: str) -> None:
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))

    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=3"})
    set_requirements("packaging>=20")
    return set_requirements


def row(what: str) -> Finding:
    return next(item for item in findings() if item.what == what)


def run_and_read(capsys: pytest.CaptureFixture) -> tuple[int, str]:
    code = check_env.run(check_env.argparse.Namespace())
    return code, " ".join(capsys.readouterr().out.split())


def test_this_environment_is_complete(capfd):
    if not list(importlib.metadata.distributions(name="detclip2")):
        pytest.skip("detclip2 runs from its source without being installed")
    assert cli.main(["check-env"]) == 0
    printed = capfd.readouterr()
    for name in ("python", "torch", "transformers", "detectron2", "device", "emoji font"):
        assert name in printed.out
    assert "Traceback" not in printed.err


def test_a_missing_package_is_named_with_its_remedy(declare, capsys):
    declare("packaging>=20", "no-such-distribution>=1,<2")
    code, text = run_and_read(capsys)
    assert code == 1
    assert "no-such-distribution is missing; `pip install 'no-such-distribution<2,>=1'`" in text


def test_an_untested_version_is_only_a_note(declare, capsys):
    declare("packaging<1,>=0.1")
    code, text = run_and_read(capsys)
    assert code == 0
    assert "outside the tested range >=0.1, <1" in text


def test_requirements_of_extras_and_other_platforms_are_skipped(declare):
    declare("packaging", 'a>=1; extra == "test"', 'b>=1; sys_platform == "nowhere"')
    assert [item.name for item in environment.requirements()] == ["packaging"]


def test_an_unsupported_python_is_a_problem(declare, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": "<3"})
    assert row("python").problem
    assert row("python").needed


def test_an_installed_package_that_does_not_import_is_a_problem(declare, monkeypatch, tmp_path):
    (tmp_path / "broken_build.py").write_text("raise OSError('libGL.so.1: cannot open')\nx = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(environment.MODULES, "packaging", "broken_build")
    found = row("packaging")
    assert found.needed
    assert "does not import (OSError: libGL.so.1: cannot open)" in found.problem


@pytest.mark.parametrize(("version", "kind"), [("0.6+subset", "stand-in"), ("0.6", "real")])
def test_the_detectron2_in_use_is_named_with_its_place(monkeypatch, version, kind):
    module = types.ModuleType("detectron2")
    module.__version__, module.__file__ = version, "/somewhere/detectron2/__init__.py"
    monkeypatch.setattr(environment, "_import_trouble", lambda name: "")
    monkeypatch.setitem(sys.modules, "detectron2", module)
    assert environment._detectron2().found == f"{version} ({kind}, /somewhere/detectron2)"


def test_a_missing_detectron2_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.setattr(environment, "_import_trouble", lambda name: "ModuleNotFoundError: ...")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = environment._detectron2()
    assert found.needed
    assert "install detclip2 again" in found.problem


def test_a_folder_imported_as_detectron2_is_named(monkeypatch):
    """For example, a clone of its repository in the working directory."""
    module = types.ModuleType("detectron2")
    module.__file__, module.__path__ = None, ["/here/detectron2"]
    monkeypatch.setattr(environment, "_import_trouble", lambda name: "")
    monkeypatch.setitem(sys.modules, "detectron2", module)
    assert "/here/detectron2 is taken for the package" in environment._detectron2().problem


@pytest.mark.processes
def test_a_missing_torch_does_not_stop_the_report():
    code = """
import importlib.metadata, sys
sys.modules["torch"] = None  # what Python keeps for a module that cannot be imported
importlib.metadata.metadata = lambda name: {"Requires-Python": ">=3"}
importlib.metadata.requires = lambda name: ["torch>=2", "packaging"]
from detclip2.cli import main
sys.exit(main(["check-env"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "unknown without torch" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_font_is_a_note_because_own_data_needs_none(declare, monkeypatch, capsys):
    monkeypatch.setenv("DETCLIP2_EMOJI_FONT", "/nowhere/NotoColorEmoji.ttf")
    code, text = run_and_read(capsys)
    assert code == 0
    assert "note: /nowhere/NotoColorEmoji.ttf" in text


def test_running_from_source_without_installing_is_reported(monkeypatch):
    def not_installed(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", not_installed)
    assert row("detclip2").needed


def test_reported_values_are_not_parsed_as_markup(capsys):
    table = check_env._table([Finding("font", "/fonts/[bold]/x", problem="[red]")])
    Console(width=100).print(table)
    assert "/fonts/[bold]/x" in capsys.readouterr().out
