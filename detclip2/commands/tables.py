"""Where commands print their tables."""

import io
import sys

from rich.console import Console

WIDTH_IN_A_FILE = 120  # a table that is piped into a file should not be folded at 80 columns


def console_for_tables() -> Console:
    """A console on stdout that shows any text, or its escapes where the terminal cannot."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_IN_A_FILE)
