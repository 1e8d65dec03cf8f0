"""Cost of tests: marks that folders and fixtures imply, and a check that marks are correct.

With ``--check-costs``, a test without a mark of cost fails if it uses much CPU time or starts a
Python process. Only the test itself counts, not its fixtures and not the imports of collection.
"""

import os
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Folder -> the mark of all tests below it.
FOLDERS = {
    "compat": "compat",
    "configs": "docs",
    "docs": "docs",
    "packaging": "docs",
    "projects/emojiscenes": "slow",
}
COSTS = ("slow", "processes", "docs", "compat")
# A mark is required from 5 seconds; on a busy machine, CPU time can double.
MAX_SECONDS = 2 * 5.0
# Python programs that this process has started. An audit hook can never be removed, so that there
# is one for all tests.
started: list[str] = []


def pytest_addoption(parser):
    parser.addoption(
        "--check-costs",
        action="store_true",
        help="fail tests without a mark of cost that use much CPU or start a Python process",
    )


def pytest_configure(config):
    if config.getoption("--check-costs"):
        sys.addaudithook(note_process)


def pytest_collection_modifyitems(items):
    for item in items:
        if "test_data" in item.fixturenames:
            item.add_marker("data")
        for folder, mark in FOLDERS.items():
            if item.path.is_relative_to(TESTS / folder):
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    if not item.config.getoption("--check-costs") or any(map(item.get_closest_marker, COSTS)):
        return (yield)
    started.clear()
    before = cpu_seconds()
    result = yield
    if message := excess(cpu_seconds() - before, started):
        pytest.fail(message, pytrace=False)
    return result


def excess(seconds: float, processes: list[str]) -> str:
    """The error of a test without a mark of cost; empty if it needs none."""
    if processes:
        return (
            f"the test starts a Python process ({processes[0]}) and has no mark for it: "
            "add @pytest.mark.processes, or call the function in this process"
        )
    if seconds > MAX_SECONDS:
        return (
            f"the test took {seconds:.1f} s of CPU, and without a mark {MAX_SECONDS:.0f} s are "
            "allowed: make it cheaper, or add @pytest.mark.slow"
        )
    return ""


def cpu_seconds() -> float:
    """CPU time of this process, its threads, and the processes it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def note_process(event: str, arguments: tuple) -> None:
    """The audit hook: called for every event of the interpreter, so it has to be quick."""
    if event == "tests.run_processes":
        started.append(str(arguments[0]))
    elif event == "subprocess.Popen":
        command = arguments[1]
        words = [command] if isinstance(command, str | bytes | os.PathLike) else list(command)
        if Path(os.fsdecode(words[0])).name.startswith("python"):
            started.append(" ".join(map(os.fsdecode, words[:4])))
