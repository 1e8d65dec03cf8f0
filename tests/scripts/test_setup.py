"""The scripts that set up an environment and run the tests in it."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_continuous_integration_runs_the_test_command():
    run = ROOT / ".ci/run"
    assert os.access(run, os.X_OK)
    assert run.read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize("script", [".ci/run", "scripts/setup.sh"])
def test_shell_scripts_parse(script: str):
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_setup_reports_an_unsupported_python_in_one_sentence(tmp_path: Path):
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
