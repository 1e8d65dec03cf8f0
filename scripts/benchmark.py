"""Measure what the project promises about speed; prints tables, and keeps them as json.

    python scripts/benchmark.py all --repeats 3         # everything
    python scripts/benchmark.py inference --quick       # our own model, the rows that are cheap
    python scripts/benchmark.py peers --peers omdet-turbo fcos
    python scripts/benchmark.py scenes                  # EmojiScenes drawn in a second by one core
    python scripts/benchmark.py report                  # docs/performance.md from the json

Times of models are ratios to a yard, timm's Swin-T features at 800 x 1333 in float32, which is
measured beside each of them by turns: median, least and most of the repeats. Every row has a fresh
process, so that its peak of memory is its own. What is measured goes into ``--json`` by its name;
what else is there stays.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks import contrast, growth, inference, loading, peers, report, startup, training
from benchmarks.timing import Setting, machine
from rich.console import Console

from detclip2.utils.files import write_whole
from detclip2.utils.quiet import without_upstream_warnings

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = ("inference", "stages", "peers", "growth", "training", "contrast", "loading", "startup")


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
    parser.add_argument("subject", choices=["all", *SUBJECTS, "scenes", "report"])
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "performance.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile, for our model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--row-seconds", type=float, default=30, help="no repeat of a row begins after so many"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="leave out batches and long rows")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=sorted(peers.PEERS),
        help="which to measure (default: all; with --quick those that take less than two yards)",
    )
    parser.add_argument(
        "--keep-freed-memory",
        action="store_true",
        help="glibc keeps what is freed, for what is measured and for the yard",
    )
    parser.add_argument("--captions", type=int, default=16, help="samples a batch, in training")
    parser.add_argument("--detections", type=int, default=1, help="samples a batch, in training")
    contrast.add_arguments(parser.add_argument_group("contrast"))
    args = parser.parse_args(argv)
    if args.peers is None:
        args.peers = [name for name in peers.PEERS if not (args.quick and name in peers.SLOW)]
    return args


def command(argv: list[str] | None) -> str:
    """What was called."""
    return " ".join(["python", "scripts/benchmark.py", *(sys.argv[1:] if argv is None else argv)])


def key_of(subject: str, setting: Setting) -> str:
    """The name in the json; what is not the table of CPUs in float32 has its own."""
    parts = [subject]
    parts += [torch.device(setting.device).type] if not setting.device.startswith("cpu") else []
    parts += [setting.dtype] if setting.dtype != "float32" else []
    parts += ["compile"] if setting.compile else []
    return " ".join(parts)


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(quietly, (function, args))


def quietly(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Without warnings of libraries."""
    with without_upstream_warnings():
        return function(*args)


def keep(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Put a result into the json."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[name] = entry
    text = json.dumps(results, indent=1, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def measure_inference(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """A process for each row."""
    rows = []
    for case in inference.cases(args.quick):
        rows.append(apart(inference.measure, case, setting))
        report.show("inference", rows[-1:])
    return rows


def measure_stages(args: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """At both sizes, and with many names."""
    cases = [inference.Case(80), inference.Case(1203), inference.Case(80, (640, 640))]
    return [apart(inference.stages, case, setting) for case in cases]


def measure_peers(args: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """A process for each, and our model beside OmDet-Turbo at its size."""
    rows = []
    for peer in args.peers:
        rows.append(apart(peers.measure, peer, setting))
        report.show("peers", {"peers": rows[-1:]})
    against = [name for name in args.peers if name == "omdet-turbo"]
    return {
        "peers": rows,
        "ours_against": [apart(peers.ours_against, name, setting) for name in against],
    }


MEASURE: dict[str, Callable[[argparse.Namespace, Setting], Any]] = {
    "inference": measure_inference,
    "stages": measure_stages,
    "peers": measure_peers,
    "growth": lambda args, setting: apart(growth.measure, setting),
    "training": lambda args, setting: apart(
        training.measure, setting, args.detections, args.captions
    ),
    "contrast": lambda args, setting: apart(contrast.measure, args),
    "loading": lambda args, setting: apart(loading.measure, 200, args.repeats, 320),
    "scenes": lambda args, setting: apart(loading.scenes, 200, args.repeats, 320),
    "startup": lambda args, setting: apart(startup.measure, args.repeats),
}

if __name__ == "__main__":
    sys.exit(main())
