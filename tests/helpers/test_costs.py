"""The check that marks of cost are correct, on synthetic tests."""

import pytest

from tests.helpers import costs

TESTS = """
import subprocess, sys, time
import pytest

@pytest.fixture(scope="session")
def expensive():
    busy()

def busy():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass

def test_cheap(expensive): pass
def test_busy(): busy()
@pytest.mark.slow
def test_slow(): busy()
def test_git(): subprocess.run(["true"], check=True)
def test_python(): subprocess.run([sys.executable, "-S", "-c", ""], check=True)
@pytest.mark.processes
def test_processes(): subprocess.run([sys.executable, "-S", "-c", ""], check=True)
def test_broken(): assert busy()
def test_helper(): sys.audit("tests.run_processes", "work")
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """The reports of `TESTS`, by name."""
    monkeypatch.setattr(costs, "MAX_SECONDS", 0.2)
    pytester.makepyfile(TESTS)

    def outcomes(*options):
        plugin = Plugin()
        pytester.inline_run("--import-mode=importlib", *options, plugins=[costs, plugin])
        return plugin.reports

    return outcomes


class Plugin:
    def __init__(self):
        self.reports = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            self.reports[report.nodeid.partition("::")[2]] = report


@pytest.mark.processes
def test_tests_without_a_mark_may_not_be_expensive(run):
    reports = run("--check-costs")
    failed = {name: report.longreprtext for name, report in reports.items() if report.failed}
    assert failed.keys() == {"test_busy", "test_python", "test_broken", "test_helper"}
    assert "s of CPU" in failed["test_busy"]
    assert "@pytest.mark.slow" in failed["test_busy"]
    assert "@pytest.mark.processes" in failed["test_python"]
    assert "assert None" in failed["test_broken"]


@pytest.mark.processes
def test_nothing_is_checked_unless_asked_for(run):
    reports = run()
    assert [name for name, report in reports.items() if report.failed] == ["test_broken"]
    assert len(reports) == 8


def test_folders_and_fixtures_imply_marks(pytester, monkeypatch):
    monkeypatch.setattr(costs, "TESTS", pytester.path)
    body = "import pytest\n@pytest.fixture\ndef test_data(): pass\ndef test_a(): pass\n"
    folders = ("compat", "docs/deep", "packaging", "engine", "projects", "projects/emojiscenes")
    for name in (f"{folder}/test_a" for folder in folders):
        pytester.makepyfile(**{name: body + "def test_b(test_data): pass\n"})
    items, _ = pytester.inline_genitems("--import-mode=importlib", "-p", "tests.helpers.costs")
    marks = {item.nodeid: {mark.name for mark in item.iter_markers()} for item in items}
    assert marks == {
        "compat/test_a.py::test_a": {"compat"},
        "compat/test_a.py::test_b": {"compat", "data"},
        "docs/deep/test_a.py::test_a": {"docs"},
        "docs/deep/test_a.py::test_b": {"docs", "data"},
        "packaging/test_a.py::test_a": {"docs"},
        "packaging/test_a.py::test_b": {"docs", "data"},
        "projects/emojiscenes/test_a.py::test_a": {"slow"},
        "projects/emojiscenes/test_a.py::test_b": {"slow", "data"},
        "projects/test_a.py::test_a": set(),
        "projects/test_a.py::test_b": {"data"},
        "engine/test_a.py::test_a": set(),
        "engine/test_a.py::test_b": {"data"},
    }
