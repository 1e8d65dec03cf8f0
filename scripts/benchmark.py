"""Measure what the project promises about speed; prints a table.

    python scripts/benchmark.py scenes      # EmojiScenes drawn in a second by one core

Times are of the processor, not of the clock, so that other programs disturb little.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import cv2
from rich.console import Console
from rich.table import Table

from detclip2.data.sources.emoji import EmojiGrounding, EmojiPairs, EmojiScenes

SOURCES: dict[str, Callable[..., Sequence]] = {
    "detection": EmojiScenes,
    "pairs": EmojiPairs,
    "grounding": EmojiGrounding,
}


def scenes_a_second(scenes: Sequence, count: int, repeats: int) -> list[float]:
    """Scenes drawn in a second of processor time, once for each repeat."""
    for index in range(count):
        scenes[index]  # the emoji are drawn once, and kept
    speeds = []
    for repeat in range(1, repeats + 1):
        start = time.process_time()
        for index in range(repeat * count, (repeat + 1) * count):
            scenes[index]
        speeds.append(count / (time.process_time() - start))
    return speeds


def benchmark_scenes(args: argparse.Namespace) -> None:
    """One row for each source of EmojiScenes, all categories."""
    cv2.setNumThreads(1)
    table = Table("source", "scenes/s a core, median", "least", "most")
    for name, source in SOURCES.items():
        scenes = source(count=(args.repeats + 1) * args.count, size=args.size)
        speeds = scenes_a_second(scenes, args.count, args.repeats)
        row = (statistics.median(speeds), min(speeds), max(speeds))
        table.add_row(name, *(f"{speed:.0f}" for speed in row))
    Console().print(f"EmojiScenes at {args.size} px, {args.repeats} x {args.count} scenes")
    Console().print(table)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    scenes = commands.add_parser("scenes", help="EmojiScenes drawn in a second by one core")
    scenes.add_argument("--size", type=int, default=320, help="pixels of an edge")
    scenes.add_argument("--count", type=int, default=200, help="scenes a repeat")
    scenes.add_argument("--repeats", type=int, default=5)
    scenes.set_defaults(run=benchmark_scenes)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
