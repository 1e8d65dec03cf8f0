"""The json of a run besides its metrics: provenance, cost and training curves."""

import datetime
import json
import math
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from detclip2.engine.hooks.curves import read_metrics
from detclip2.utils.files import write_whole
from detclip2.utils.weights import read_checkpoint

from . import COMMAND, PROJECT

POINTS = 50  # of a curve


class Cost:
    """A context that adds its processor and wall seconds to those of a folder.

    Processor seconds are of this process and of its workers that have ended. They are written once
    a minute, so that a killed run loses no more than a minute.
    """

    FILE, EVERY = "cost.json", 60.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended = threading.Event()
        self.keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Cost":
        self.before = self.of(self.folder)
        self.start = _processor_seconds(), time.monotonic()
        self.keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.keeper.join()
        self._write()

    def _keep(self) -> None:
        while not self.ended.wait(self.EVERY):
            self._write()

    def _write(self) -> None:
        spent = _processor_seconds() - self.start[0], time.monotonic() - self.start[1]
        names = ("processor_seconds", "wall_seconds")
        total = {
            name: round(self.before.get(name, 0) + s, 1)
            for name, s in zip(names, spent, strict=True)
        }
        write_json(self.folder / self.FILE, total)

    @classmethod
    def of(cls, folder: Path) -> dict[str, float]:
        """The seconds of a folder so far; empty if there are none."""
        file = folder / cls.FILE
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def forget(file: Path, folder: Path) -> None:
    """Remove the json of a run and its folder, so that it starts anew."""
    file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def say_there() -> None:
    """Say that a result, whose path is printed next, is not of this command."""
    print("already there, nothing is run; --force runs it again:", file=sys.stderr)


def _processor_seconds() -> float:
    usages = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def provenance(
    cfg: DictConfig,
    name: str,
    seed: int,
    command: str,
    settings: Sequence[str] = (),
    of_row: Sequence[str] = (),
) -> dict[str, Any]:
    """What is needed to reproduce the run; no machine paths.

    Args:
        cfg: of the run.
        name: of the run.
        seed: of the run.
        command: arguments of `COMMAND`, without overrides and seed.
        settings: overrides of the command.
        of_row: overrides of the row, which come after those.
    """
    if settings:
        command += f" --set {shlex.join(settings)}"
    return {
        "row": name,
        "seed": seed,
        "overrides": [*settings, *of_row],
        "command": f"{COMMAND} {command} --seed {seed}",
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name() if cfg.train.device == "cuda" else "cpu",
            "torch": torch.__version__,
        },
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def images_seen(checkpoint: Path) -> dict[str, int]:
    """Source -> samples that it gave, as counted in the last checkpoint of a run."""
    hooks = read_checkpoint(checkpoint)["trainer"]["hooks"]
    return dict(hooks["AlternateSources"]["loader"]["drawn"])


def curves_of(metrics: Path) -> dict[str, list[list[float]]]:
    """Losses by source, and accuracy of the contrast, over iterations, in few points."""
    found: dict[str, list[list[float]]] = {}
    for name, points in read_metrics(metrics).items():
        last = name.rpartition("/")[2]
        if last in ("total_loss", "text_to_image_accuracy"):
            step = math.ceil(len(points) / POINTS)
            found[name] = [[i, round(float(v), 4)] for i, v in points[::step] if math.isfinite(v)]
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file in one step, a line for each key; NaN and infinity become null."""
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in _plain(content).items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_whole(path, lambda file: file.write(text.encode()))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
