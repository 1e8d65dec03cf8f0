"""Console for the tables of commands."""

from rich.console import Console

WIDTH_IN_A_FILE = 120  # tables in files are not folded at 80 columns


def console_for_tables() -> Console:
    """A console on stdout."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_IN_A_FILE)
