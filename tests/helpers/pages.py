"""The code of documentation pages, to run it as a reader would."""

import re
import shlex
from pathlib import Path

from detclip2 import cli

ROOT = Path(__file__).parents[2]
FENCE = r'^```{language}(?: title="([^"]+)")?\n(.*?)^```'


def blocks(page, language):
    """(title, code) of each block of a page in a language; the title is "" if it has none."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(FENCE.format(language=language), text, re.DOTALL | re.MULTILINE)


def write_files(page, folder, *languages):
    """Write the blocks with a name of a file; other titles say what a block is for."""
    for language in languages:
        for title, code in blocks(page, language):
            if "." in title:
                (folder / title).write_text(code, encoding="utf-8")


def commands(page, environment=None):
    """The commands of the blocks without a title, as lists of words, with shell variables.

    Args:
        page: the page.
        environment: values of variables; those that the page sets or exports are added to it.
    """
    known = {} if environment is None else environment
    found = []
    for title, code in blocks(page, "sh"):
        if title:
            continue
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            words = shlex.split(_replaced(line, known), comments=True)
            if words[:1] == ["export"]:
                words = words[1:]
            if words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                name, _, value = words[0].partition("=")
                known[name] = value
            elif words:
                found.append(words)
    return found


def _replaced(line, known):
    """The line with the values of variables."""
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda m: known.get(m[1] or m[2], m[0]), line)


def run(words, *more):
    """Run a command of this package with further arguments, in this process."""
    assert words[0] == "detclip2", words
    arguments = [*words[1:], *map(str, more)]
    assert cli.main(arguments) == 0, shlex.join(arguments)
