r"""Experiments on the claims of the DetCLIPv2 paper: runs, tables and figures.

    python -m projects.EmojiScenes.evidence list
    python -m projects.EmojiScenes.evidence run ROW... [--size quick] [--seed 0 1 2] [--artwork DIR]
    python -m projects.EmojiScenes.evidence photos overfit | bccd [...]
    python -m projects.EmojiScenes.evidence tables [--check]
    python -m projects.EmojiScenes.evidence plots [--run FOLDER]

ROW is the name of a row in rows.py, or of a table, for all its rows. The same command resumes a run
that was stopped, and says of one that is finished that it is there (--force runs it again). `run`
writes one json per row and seed into projects/EmojiScenes/results; the tables of RESULTS.md and the
figures are made from these alone.
"""

import argparse
import os
import sys
from pathlib import Path

from detclip2.commands.model_arguments import model_argument
from detclip2.utils.errors import UserError

from . import PROJECT
from .rows import ROWS, TABLES
from .tables import fill_page

SIZES = ("quick", "standard", "large")
PAGE = PROJECT / "RESULTS.md"
FIGURES = PROJECT / "figures"
RESULTS = PROJECT / "results"
OUTPUT = PROJECT.parents[1] / "output" / "evidence"


def expand(names: list[str]) -> list[str]:
    """The rows that the names mean, each once."""
    rows = [row for name in names for row in (TABLES[name].rows if name in TABLES else [name])]
    return list(dict.fromkeys(rows))


def print_list() -> None:
    """Print the tables and their rows."""
    for name, table in TABLES.items():
        print(f"{name}: {table.title}\n    " + " ".join(table.rows))
    print(f"{len(ROWS)} rows")


def add_photo_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``photos``."""
    parser.add_argument("what", choices=("overfit", "bccd"))
    parser.add_argument("--data", type=Path, default=os.environ.get("DETCLIP2_TEST_DATA"),
                        help="folder with coco_open/ and bccd/ ($DETCLIP2_TEST_DATA)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE",
                        help="overfit: overrides of its config")  # fmt: skip
    parser.add_argument("--model", type=model_argument, metavar="NAME|DIR", help="bccd: a model "
                        "that ships, or a folder of the weights to start from; "
                        "without it, from scratch")  # fmt: skip
    parser.add_argument(
        "--label", default="given weights", help="bccd: name of these weights in tables"
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10, 50, 205],
                        help="bccd: numbers of training images")  # fmt: skip
    parser.add_argument("--iterations", type=int, default=400, help="bccd: of each run")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the tables and their rows")
    run = commands.add_parser("run", help="train and measure rows")
    run.add_argument("rows", nargs="+", metavar="ROW")
    run.add_argument("--size", choices=SIZES, default="quick")
    run.add_argument("--seed", type=int, nargs="+", default=[0])
    run.add_argument("--artwork", type=Path, help="folder of Iconify icon sets, one test set each")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    run.add_argument("--processes", type=int, default=1, help="processes that share every batch")
    photos = commands.add_parser("photos", help="train and measure on real images")
    add_photo_arguments(photos)
    tables = commands.add_parser("tables", help="write the tables of RESULTS.md")
    tables.add_argument("--page", type=Path, default=PAGE)
    tables.add_argument("--check", action="store_true", help="only compare the tables")
    plots = commands.add_parser("plots", help="draw the figures")
    plots.add_argument("--figures", type=Path, default=FIGURES, help="folder to write to")
    plots.add_argument("--run", type=Path, help="folder of a run whose images are also drawn")
    for command in (run, photos):
        command.add_argument("--output", type=Path, default=OUTPUT, help="folder of the runs")
        command.add_argument("--force", action="store_true", help="run again what is there: its "
                             "json and its folder are removed")  # fmt: skip
    for command in commands.choices.values():
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the json")
    args = parser.parse_args(argv)
    try:
        return run_command(args)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def run_command(args: argparse.Namespace) -> int:
    """Run the given command; code that trains or draws is imported only when needed."""
    if args.command == "list":
        print_list()
    elif args.command == "tables":
        return fill_page(args.page, args.results, args.check)
    elif args.command == "run":
        from .runner import Experiment, run_rows

        experiment = Experiment(
            args.size,
            args.output,
            args.results,
            artwork=args.artwork,
            settings=tuple(args.set),
            processes=args.processes,
            force=args.force,
        )
        run_rows(experiment, expand(args.rows), args.seed)
    elif args.command == "photos":
        from .photographs import run_photos

        run_photos(args)
    else:
        from .plots import draw_all, draw_run

        draw_all(args.results, args.figures)
        if args.run is not None:
            draw_run(args.run.resolve(), args.figures, args.run.resolve().parent / "data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
