r"""The evidence for the paper's claims: runs, tables and figures (docs/benchmark.md).

    python scripts/evidence.py list
    python scripts/evidence.py run ROW... [--size quick] [--seed 0 1 2] [--artwork DIR]
    python scripts/evidence.py photos overfit | bccd [...]
    python scripts/evidence.py tables [--check]
    python scripts/evidence.py plots [--run FOLDER]

ROW is one of evidence_rows.py, or a table of it, which means its rows. A run that was stopped goes
on with the same command; one that is done is not done again. `run` writes a json a row and seed
into docs/evidence/results, from which alone the tables of docs/evidence.md and the figures are
made.
"""

import argparse
import sys
from pathlib import Path

from evidence_photos import add_photo_arguments, run_photos
from evidence_plots import draw_all, draw_run
from evidence_rows import ROWS, TABLES
from evidence_run import RESULTS, ROOT, Place, run_rows
from evidence_tables import fill_page

from detclip2.utils.errors import UserError

SIZES = ("quick", "standard", "large")
PAGE = ROOT / "docs" / "evidence.md"
FIGURES = ROOT / "docs" / "evidence"


def expand(names: list[str]) -> list[str]:
    """Rows, and tables as their rows, each once."""
    rows = [row for name in names for row in (TABLES[name].rows if name in TABLES else [name])]
    return list(dict.fromkeys(rows))


def print_list() -> None:
    """The rows, and the tables that they are in."""
    for name, table in TABLES.items():
        print(f"{name}: {table.title}\n    " + " ".join(table.rows))
    print(f"{len(ROWS)} rows")


def main(argv: list[str] | None = None) -> int:
    """Do what a command says; 2 for a mistake that the user can mend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what there is to run")
    run = commands.add_parser("run", help="train and measure rows")
    run.add_argument("rows", nargs="+", metavar="ROW")
    run.add_argument("--size", choices=SIZES, default="quick")
    run.add_argument("--seed", type=int, nargs="+", default=[0])
    run.add_argument("--artwork", type=Path, help="folder of Iconify sets, for shifted tests")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    run.add_argument("--processes", type=int, default=1, help="that share every batch")
    photos = commands.add_parser("photos", help="train and measure on real photographs")
    add_photo_arguments(photos)
    tables = commands.add_parser("tables", help="write the tables of docs/evidence.md")
    tables.add_argument("--page", type=Path, default=PAGE)
    tables.add_argument("--check", action="store_true", help="write nothing; 1 if they differ")
    plots = commands.add_parser("plots", help="draw the figures of docs/evidence")
    plots.add_argument("--figures", type=Path, default=FIGURES, help="where they go")
    plots.add_argument("--run", type=Path, help="folder of a run, to draw pictures of as well")
    for command in (run, photos):
        command.add_argument("--output", type=Path, default=ROOT / "output" / "evidence")
    for command in commands.choices.values():
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the json")
    args = parser.parse_args(argv)
    try:
        if args.command == "list":
            print_list()
        elif args.command == "run":
            settings = tuple(args.set)
            place = Place(
                args.size, args.output, args.results, args.artwork, settings, args.processes
            )
            run_rows(place, expand(args.rows), args.seed)
        elif args.command == "photos":
            run_photos(args)
        elif args.command == "tables":
            return fill_page(args.page, args.results, args.check)
        else:
            draw_all(args.results, args.figures)
            if args.run is not None:
                draw_run(args.run.resolve(), args.figures, args.run.resolve().parent / "data")
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
