"""Documented commands exist, with their options."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from detclip2.cli import COMMANDS
from scripts.lint import code_of_page

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "projects").rglob("*.md")]


def documented_commands():
    """Command -> all options that a page shows it with."""
    found = {}
    for page in sorted(PAGES):
        code = code_of_page(page.read_text(encoding="utf-8"))
        for command, rest in re.findall(
            r"^(?:\.venv/bin/)?detclip2 ([a-z][a-z-]+)(.*)$", code, re.MULTILINE
        ):
            options = re.findall(r"(?<=\s)--[a-z][a-z-]*", rest)
            found.setdefault(command, set()).update(options)
    return found


def test_the_documents_show_commands():
    assert {"predict", "finetune"} <= documented_commands().keys()


@pytest.mark.parametrize("command", sorted(documented_commands()))
def test_command_and_options_exist(command):
    assert command in COMMANDS, f"the documents name a command {command!r}"
    parser = argparse.ArgumentParser()
    module = importlib.import_module(f"detclip2.commands.{command.replace('-', '_')}")
    module.add_arguments(parser)
    for option in documented_commands()[command]:
        assert option in parser.format_help(), f"detclip2 {command} has no {option}"
