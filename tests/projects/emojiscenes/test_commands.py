"""Documented commands have valid modules, subcommands and options."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from projects.EmojiScenes.evidence import COMMAND
from projects.EmojiScenes.evidence import __main__ as evidence

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "projects" / "EmojiScenes").glob("*.md"))]


def commands():
    """All `python -m projects...` of the pages, each with its arguments."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"python -m (projects\.[\w.]+)([^`#]*?)(?=`|#|\n(?!--)|;|\))", text)


def test_modules_of_documented_commands_exist():
    assert {module for module, _ in commands()} >= {"projects.EmojiScenes.evidence"}
    assert all(find_spec(module) for module, _ in commands())


def test_subcommands_and_options_of_documented_commands_exist(capsys):
    helps = {}
    for module, arguments in commands():
        if not COMMAND.endswith(module):
            continue
        name, *others = arguments.split()
        if name not in helps:
            with pytest.raises(SystemExit) as stopped:
                evidence.main([name, "--help"])
            assert stopped.value.code == 0, f"there is no command {name}"
            helps[name] = capsys.readouterr().out
        options = [part.strip("[]") for part in others if part.strip("[]").startswith("--")]
        assert all(option in helps[name] for option in options), arguments
