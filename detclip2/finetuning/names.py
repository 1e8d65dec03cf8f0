"""Names of several files that mean the same: a spelling, a plural or a synonym of each other."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from detclip2.data.text.concepts import ConceptDictionary, variants, words_of

_JOINTS = re.compile(r"[\s_\-]+")


class FileNames(NamedTuple):
    """The names of a file."""

    file: str
    """Its name, for messages."""
    names: list[str]
    """Distinct names, in the file's order."""
    synonyms: list[tuple[str, ...]]
    """For each name those that the file gives, as LVIS's do."""


class Merge(NamedTuple):
    """A name that is taken for that of another file."""

    name: str
    """The name that is used: that of the first file."""
    other: str
    """As the file writes it."""
    file: str
    reason: str
    """"spelling", "plural" or "synonym"."""


def same_name(name: str) -> str:
    """The name without case, spaces, underscores and hyphens: "wineglass" for "Wine_glass"."""
    return _JOINTS.sub("", name.casefold())


def reconcile(
    files: Sequence[FileNames], distinct: Collection[str] = ()
) -> tuple[list[list[str]], list[Merge]]:
    """One name for what several files write in different ways.

    Names are matched across files only: what one file distinguishes stays distinct. The closest
    match has priority: the same name, then its spelling, then a plural, then a synonym that a file
    or LVIS's vocabulary gives. A match that is not unique is none.

    Args:
        files: the files; their first name for a thing is used.
        distinct: names that match the same name only (ignoring case).

    Returns:
        For each file its names as they are used, and the merges of names that differ by more than
        case.
    """
    table = _Names({name.casefold() for name in distinct})
    merges: list[Merge] = []
    used = []
    for file in files:
        found: dict[int, tuple[int, str]] = {}  # name of the file -> row, how it was found
        for how in ("case", "spelling", "plural", "synonym"):
            candidates = {
                i: table.rows(name, file.synonyms[i], how) - {row for row, _ in found.values()}
                for i, name in enumerate(file.names)
                if i not in found
            }
            wanted = Counter(row for rows in candidates.values() for row in rows)
            for i, rows in candidates.items():
                if len(rows) == 1 and wanted[row := next(iter(rows))] == 1:
                    found[i] = row, how
        rows_of_file = []
        for i, name in enumerate(file.names):
            row, how = found.get(i, (len(table.labels), ""))
            if not how:
                table.labels.append(name)
            elif how != "case":
                merges.append(Merge(table.labels[row], name, file.file, how))
            table.add(row, name, file.synonyms[i])
            rows_of_file.append(row)
        used.append([table.labels[row] for row in rows_of_file])
    return used, merges


class _Names:
    """Rows of names with one meaning, and where each form of a name leads to."""

    def __init__(self, distinct: set[str]):
        self.labels: list[str] = []
        self._distinct = distinct
        self._dictionary = ConceptDictionary.builtin("lvis")
        self._concepts: dict[str, str] = {}  # "cell phone" is LVIS's "cellphone"
        for concept in self._dictionary:
            self._concepts.setdefault(same_name(concept.name), concept.name)
        for concept in self._dictionary:
            for synonym in concept.synonyms:
                self._concepts.setdefault(same_name(synonym), concept.name)
        self._rows: dict[tuple[str, str], set[int]] = defaultdict(set)

    def add(self, row: int, name: str, synonyms: Iterable[str]) -> None:
        """Add a name to a row."""
        forms = [("case", name.casefold())]
        if name.casefold() not in self._distinct:
            forms.append(("spelling", same_name(name)))
            forms += [("singular", form) for form in _singulars(name)]
            forms += [("synonym", same_name(one)) for one in synonyms]
            if concept := self._concept(name):
                forms.append(("concept", concept))
        for form in forms:
            self._rows[form].add(row)

    def rows(self, name: str, synonyms: Iterable[str], how: str) -> set[int]:
        """The rows that a name belongs to by one kind of match."""
        if how == "case":
            return self._of(how, name.casefold())
        if name.casefold() in self._distinct:
            return set()
        own = same_name(name)
        if how == "spelling":
            return self._of(how, own)
        if how == "plural":
            # One is the other's plural; that both are plurals of a third form proves nothing.
            rows = self._of("singular", own)
            rows = rows.union(*(self._of("spelling", form) for form in _singulars(name)))
            concept = self._concept(name)  # "glass" and "glasses" are two things
            return {row for row in rows if not self._differs(row, concept)}
        rows = self._of("synonym", own)
        rows = rows.union(*(self._of("spelling", same_name(one)) for one in synonyms))
        return rows | self._of("concept", self._concept(name))

    def _of(self, kind: str, form: str) -> set[int]:
        return set(self._rows.get((kind, form), ())) if form else set()

    def _concept(self, name: str) -> str:
        concept = self._dictionary.lookup(name)
        return concept.name if concept else self._concepts.get(same_name(name), "")

    def _differs(self, row: int, concept: str) -> bool:
        other = self._concept(self.labels[row])
        return bool(concept and other and concept != other)


def _singulars(name: str) -> list[str]:
    return ["".join(words) for words in variants(words_of(name))[1:]]
