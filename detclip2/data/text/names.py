"""Lists of category names from callers and files, and their validation."""

import csv
import io
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from detclip2.data.text.clean import MAX_PHRASE_LENGTH, clean_phrase
from detclip2.resources import RESOURCES
from detclip2.utils.errors import UserError
from detclip2.utils.json_text import parse_json

Names: TypeAlias = Iterable[str | Sequence[str]]

_BUILTIN = RESOURCES / "vocabularies"
BUILTIN_NAMES = tuple(sorted(path.stem for path in _BUILTIN.glob("*.csv")))
"""The lists that ship with the package, for `read_builtin`."""

# After a word of three letters or more, which is no abbreviation ("St. Bernard"), or after a space.
_FULL_STOP = re.compile(r"(?:(?<=\w{3})|\s)\.(?=\s|$)")

logger = logging.getLogger(__name__)


def check_names(names: Names) -> list[tuple[str, ...]]:
    """The entries of a list of names, each as a tuple: a label, then its synonyms.

    The strings are not changed.

    Raises:
        UserError: there are no names, or one is not a string, not valid text, empty, or longer than
            1,000 characters; the message gives its position, counted from 1.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise UserError(f"names must be a list of strings, not {str(names)[:40]!r}")
    entries = [_check_entry(entry, position) for position, entry in enumerate(names, start=1)]
    if not entries:
        raise UserError("there are no names: give at least one thing to look for")
    return entries


def _check_entry(entry: str | Sequence[str], position: int) -> tuple[str, ...]:
    names = (entry,) if isinstance(entry, str) else entry
    if not isinstance(names, Sequence) or isinstance(names, bytes):
        raise UserError(f"name {position} is of type {type(entry).__name__}; expected a string")
    if not names:
        raise UserError(f"name {position} is an empty list")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"name {position} holds a {type(name).__name__}; expected a string")
        if len(name) > MAX_PHRASE_LENGTH:
            raise UserError(
                f"name {position} has {len(name):,} characters ({name[:30]!r}...); the limit is "
                f"{MAX_PHRASE_LENGTH:,}"
            )
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise UserError(f"name {position} is not valid text ({name!r}): it must be UTF-8")
        if not clean_phrase(name):
            raise UserError(f"name {position} is empty ({name!r})")
    return tuple(names)


def without_repeats(entries: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The entries without those whose label repeats another, and a warning that lists them.

    Labels repeat if they differ in case, white space and control characters only.
    """
    first: dict[str, tuple[str, ...]] = {}
    repeated: dict[str, None] = {}
    for entry in entries:
        key = clean_phrase(entry[0]).casefold()
        if key in first:
            repeated[entry[0]] = None
        else:
            first[key] = entry
    if repeated:
        shown = ", ".join(repr(name) for name in list(repeated)[:5])
        more = ", ..." if len(repeated) > 5 else ""
        logger.warning("names given more than once are looked for once: %s%s", shown, more)
    return list(first.values())


def split_names(text: str) -> list[str]:
    """Names separated by commas, without the white space around them.

    A warning says so where full stops look like separators, as in prompts of other detectors: "cat.
    traffic light." is one name.
    """
    if not text.strip():
        return []
    pieces = [piece.strip() for piece in _FULL_STOP.split(text) if piece.strip()]
    if "," not in text and (len(pieces) > 1 or text.rstrip().endswith(" .")):
        logger.warning(
            "%r is one name: names are separated by commas (%r)", text, ", ".join(pieces)
        )
    return [name.strip() for name in text.split(",")]


def read_names(path: str | os.PathLike[str]) -> tuple[list[list[str]], dict[str, str]]:
    """Names from a UTF-8 file: one a line, the columns of a .csv file, or those of a .json file.

    A csv has a header with the column ``name``, the label, and optionally ``synonyms`` (separated
    by ";") and ``definition``. Empty lines are ignored. A json is one of COCO's format, whose
    ``categories`` are taken in the order of their ids, or a list of names.

    Returns:
        The entries (a label, then its synonyms) for `check_names`, and label -> definition.

    Raises:
        UserError: the file is missing, not UTF-8, a csv that is damaged or lacks ``name``, or a
            json of another form.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: this file of names is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: this file of names cannot be read: {reason}") from None
    if path.suffix.lower() == ".json":
        return [[name] for name in _names_of_json(text, path)], {}
    if path.suffix.lower() != ".csv":
        # Not splitlines, which also splits at characters that a name may have.
        return [[line.strip()] for line in text.split("\n") if line.strip()], {}
    entries, definitions = [], {}
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if "name" not in (table.fieldnames or ()):
            raise UserError(
                f"{path}: a csv of names starts with a header that has the column `name` (and "
                "perhaps `synonyms`, `definition`); for bare names use .txt, one a line"
            )
        for row in table:
            name = (row["name"] or "").strip()
            synonyms = [word.strip() for word in (row.get("synonyms") or "").split(";")]
            entries.append([name, *filter(None, synonyms)])
            if definition := (row.get("definition") or "").strip():
                definitions[name] = definition
    except csv.Error as error:
        raise UserError(
            f"{path}: this csv is damaged near line {table.line_num}: {error}"
        ) from None
    return entries, definitions


def _names_of_json(text: str, path: Path) -> list[Any]:
    wanted = "expected COCO's `categories`, each with `id` and `name`, or a list of names"
    try:
        content = parse_json(text)
        if isinstance(content, list):
            return content
        return [one["name"] for one in sorted(content["categories"], key=lambda one: one["id"])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: this json has no names ({error!r}): {wanted}") from None


def read_builtin(name: str) -> tuple[list[list[str]], dict[str, str]]:
    """The categories of a data set by ascending id, in the form of `read_names`.

    Args:
        name: one of `BUILTIN_NAMES`; ``resources/vocabularies/README.md`` gives their sources.

    Raises:
        UserError: there is no such list.
    """
    if name not in BUILTIN_NAMES:
        raise UserError(f"there is no built-in list {name!r}; there are {', '.join(BUILTIN_NAMES)}")
    return read_names(_BUILTIN / f"{name}.csv")
