"""``detclip2 check-env``: print versions, the Detectron2 in use, the device and problems."""

import argparse
import warnings

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detclip2.utils.environment import Finding, findings

WIDTH_IN_A_FILE = 120  # reports in files are not folded at 80 columns

EXAMPLE = "detclip2 check-env"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something necessary is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that are imported as a check
        rows = list(findings())
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_A_FILE)
    console.print(_table(rows))
    problems = [row for row in rows if row.problem]
    for row in problems:
        word = "[red]problem[/]" if row.needed else "[yellow]note[/]"
        console.print(f"{word}: {escape(row.problem)}", soft_wrap=True)
    if any(row.needed for row in problems):
        return 1
    console.print("[green]Everything needed is here.[/]")
    return 0


def _table(rows: list[Finding]) -> Table:
    table = Table("", "what", "found", "tested with")
    for row in rows:
        mark = "[green]ok[/]" if not row.problem else "[red]!![/]" if row.needed else "[yellow]?[/]"
        table.add_row(mark, escape(row.what), escape(row.found), escape(row.expected))
    return table
