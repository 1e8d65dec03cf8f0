"""Signals to real processes, started by Detectron2's launch and by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import stopping
from tests.helpers.processes import run_processes

LAUNCH = [sys.executable, "-W", "ignore"]
TORCHRUN = [
    *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"),
    *("--nproc-per-node", "2", "--max-restarts", "1"),
]


def run(launcher, folder, iterations, signal_name, *flags):
    script = Path(stopping.__file__)
    return subprocess.run(
        [*launcher, str(script), *flags, str(folder), str(iterations), signal_name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def in_a_process(rank, world_size, folder, iterations, resume):
    trainer = stopping.train_shared(folder, iterations=iterations, period=1000, resume=resume)
    return {"seen": trainer.model.seen, "weight": trainer.model.weight.detach()}


def last_checkpoint(folder):
    return (folder / "last_checkpoint").read_text()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("launcher", "flags"),
    [(LAUNCH, ["--num-gpus", "2", "--dist-url", "auto"]), (TORCHRUN, [])],
    ids=["launch", "torchrun"],
)
@pytest.mark.processes
def test_sigterm_to_the_parent_stops_all_processes_and_the_run_resumes(tmp_path, launcher, flags):
    """So many iterations that the signal always arrives before the end."""
    ended = run(launcher, tmp_path / "stopped", 10**9, "SIGTERM", *flags)
    assert ended.returncode == (143 if launcher is LAUNCH else 1), ended.stderr
    # torchrun prints its own traceback
    assert launcher is TORCHRUN or "Traceback" not in ended.stderr
    done = int(last_checkpoint(tmp_path / "stopped")[len("model_") : -len(".pth")])
    assert done >= 3
    until = done + 4
    resumed = run_processes(in_a_process, 2, str(tmp_path / "stopped"), until, True)
    whole = run_processes(in_a_process, 2, str(tmp_path / "whole"), until, False)
    for one, other in zip(resumed, whole, strict=True):
        assert one["seen"] == other["seen"][done + 1 :]
    # Toy models are not synchronized, and process 0 writes the checkpoint.
    assert torch.equal(resumed[0]["weight"], whole[0]["weight"])


@pytest.mark.timeout(900)
@pytest.mark.processes
def test_torchrun_restarts_a_killed_process_and_the_run_resumes(tmp_path):
    ended = run(TORCHRUN, tmp_path / "killed", 8, "SIGKILL")
    assert ended.returncode == 0, ended.stderr
    assert last_checkpoint(tmp_path / "killed") == "model_final.pth"
    run_processes(in_a_process, 2, str(tmp_path / "whole"), 8, False)
    weights = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]["weight"]
        for name in ("killed", "whole")
    ]
    assert torch.equal(*weights)
    assert "exitcode: -9" in ended.stderr  # the process was killed
