"""Console for the tables of commands."""

import sys

from rich.console import Console

WIDTH_IN_A_FILE = 120  # tables in files are not folded at 80 columns


def console_for_tables() -> Console:
    """A console on stdout, also while prints of others are redirected."""
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=WIDTH_IN_A_FILE)
