"""Measure speed and memory; print tables and write the results as json.

    python scripts/benchmark.py all --repeats 3         # everything
    python scripts/benchmark.py inference --quick       # our own model, the rows that are cheap
    python scripts/benchmark.py peers --peers omdet-turbo fcos
    python scripts/benchmark.py budgets --processor-time    # on a busy machine
    python scripts/benchmark.py scenes                  # EmojiScenes drawn in a second by one core
    python scripts/benchmark.py gpu --budget 480        # what matters on a GPU, in 8 minutes
    python scripts/benchmark.py report                  # docs/performance.md from the json

Times of models are relative to a reference, timm's Swin-T features at 800 x 1333 in float32, which
is measured in turns with each of them: median, least and most of the repeats. Every row has a fresh
process, so that its peak of memory is its own. Results replace those of the same name in ``--json``
and leave the others.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detclip2.utils.files import write_whole
from detclip2.utils.quiet import without_upstream_warnings

from . import (
    budgets,
    contrast,
    evaluation,
    export,
    glip,
    gpu,
    growth,
    inference,
    loading,
    methods,
    peers,
    report,
    serving,
    startup,
    training,
)
from .timing import Setting, machine

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("inference", "stages", "peers", "growth", "training", "contrast", "loading", "startup")
SUBJECTS += ("budgets", "export", "glip", "serving", "evaluation", "training_nano", "methods")
SUBJECTS += ("photographs",)
ALONE = ("scenes", "gpu")  # not among those of "all"


def main(argv: list[str] | None = None) -> int:
    """Read the command line and measure."""
    args = arguments(argv)
    if args.subject == "report":
        report.write(args.json)
        return 0
    subjects = SUBJECTS if args.subject == "all" else (args.subject,)
    setting = Setting(**{key: getattr(args, key) for key in asdict(Setting())})
    console = Console(stderr=True)
    console.print(machine(setting))
    if torch.device(setting.device).type != "cuda" and args.subject == "all":
        console.print("on a CPU; for a GPU: --device cuda, with --dtype and --compile")
    for subject in subjects:
        result = MEASURE[subject](args, setting)
        entry = {**machine(setting), "command": command(argv), "result": result}
        keep(args.json, key_of(subject, setting), entry)
        report.show(subject, result)
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=["all", *SUBJECTS, *ALONE, "report"])
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "performance.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile, for our model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--row-seconds", type=float, default=30, help="start no repeat of a row after them"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="skip batches and long rows")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=sorted(peers.PEERS),
        help="peers to measure (default: all; with --quick those under twice the reference)",
    )
    parser.add_argument(
        "--keep-freed-memory",
        action="store_true",
        help="glibc keeps freed memory, for the measured model and for the reference",
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads, for models and the reference: other programs change it less",
    )
    parser.add_argument("--captions", type=int, default=16, help="samples a batch, in training")
    parser.add_argument("--detections", type=int, default=1, help="samples a batch, in training")
    parser.add_argument("--budget", type=float, default=480, help="seconds, of gpu")
    parser.add_argument("--export-scenes", type=int, default=500, help="for the AP of export")
    parser.add_argument("--serve-seconds", type=float, default=300, help="of the load on a server")
    contrast.add_arguments(parser.add_argument_group("contrast"))
    args = parser.parse_args(argv)
    if args.peers is None:
        args.peers = [name for name in peers.PEERS if not (args.quick and name in peers.SLOW)]
    return args


def command(argv: list[str] | None) -> str:
    """The command line of this run."""
    return " ".join(["python", "scripts/benchmark.py", *(sys.argv[1:] if argv is None else argv)])


def key_of(subject: str, setting: Setting) -> str:
    """The name in the json: the subject, with device, precision and compilation if not default."""
    parts = [subject]
    parts += [torch.device(setting.device).type] if not setting.device.startswith("cpu") else []
    parts += [setting.dtype] if setting.dtype != "float32" else []
    parts += ["compile"] if setting.compile else []
    return " ".join(parts)


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process and return its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(quietly, (function, args))


def quietly(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function with warnings of libraries hidden."""
    with without_upstream_warnings():
        return function(*args)


def keep(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Write a result into the json, under its name."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[name] = entry
    text = json.dumps(results, indent=1, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def measure_inference(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """The rows of our own model, each in its own process."""
    rows = []
    for case in inference.cases(args.quick):
        rows.append(in_fresh_process(inference.measure, case, setting))
        report.show("inference", rows[-1:])
    return rows


def measure_budgets(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """Our model in each engine, each row in its own process; kept at once, as all take an hour."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in budgets.rows():
            if row.engine != "PyTorch" and not budgets.path_of(row, Path(folder)).exists():
                in_fresh_process(budgets.export, Path(folder), row.case.size, setting)
            rows.append(in_fresh_process(budgets.measure, row, Path(folder), setting))
            report.show("budgets", rows[-1:])
            entry = {**machine(setting), "command": command(None), "result": rows}
            keep(args.json, key_of("budgets", setting), entry)
    return rows


def measure_stages(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """The stages at both image sizes, and with many names."""
    cases = [inference.Case(80), inference.Case(1203), inference.Case(80, (640, 640))]
    return [in_fresh_process(inference.stages, case, setting) for case in cases]


def measure_glip(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """GLIP-T and Grounding DINO-T by names, each in its own process."""
    rows = []
    for case in glip.CASES:
        rows.append(in_fresh_process(glip.measure, case, setting))
        report.show("glip", rows[-1:])
    return rows


def measure_peers(args: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """The peers, each in its own process, and our model at the size of OmDet-Turbo."""
    rows = []
    for peer in args.peers:
        rows.append(in_fresh_process(peers.measure, peer, setting))
        report.show("peers", {"peers": rows[-1:]})
    against = [name for name in args.peers if name == "omdet-turbo"]
    return {
        "peers": rows,
        "ours_against": [in_fresh_process(peers.ours_against, name, setting) for name in against],
    }


MEASURE: dict[str, Callable[[argparse.Namespace, Setting], Any]] = {
    "inference": measure_inference,
    "budgets": measure_budgets,
    "stages": measure_stages,
    "peers": measure_peers,
    "glip": measure_glip,
    "growth": lambda args, setting: in_fresh_process(growth.measure, setting),
    "training": lambda args, setting: in_fresh_process(
        training.measure, setting, args.detections, args.captions
    ),
    "training_nano": lambda args, setting: in_fresh_process(training.measure_nano, setting),
    "methods": lambda args, setting: in_fresh_process(methods.measure, setting),
    "gpu": lambda args, setting: gpu.measure(setting, args.budget),
    "contrast": lambda args, setting: in_fresh_process(contrast.measure, args),
    "loading": lambda args, setting: in_fresh_process(loading.measure, 200, args.repeats, 320),
    "scenes": lambda args, setting: in_fresh_process(loading.scenes, 200, args.repeats, 320),
    "export": lambda args, setting: in_fresh_process(export.measure, setting, args.export_scenes),
    "serving": lambda args, setting: serving.measure(setting, args.serve_seconds),
    "photographs": lambda args, setting: [
        in_fresh_process(budgets.measure, row, Path(), setting) for row in budgets.photograph_rows()
    ],
    "startup": lambda args, setting: in_fresh_process(startup.measure, args.repeats),
    "evaluation": lambda args, setting: in_fresh_process(evaluation.measure, args.repeats),
}
