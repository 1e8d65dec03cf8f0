"""The concept dictionary: names with definitions and synonyms, and a source of negatives.

DetCLIPv2 writes a category as "name, definition" (concept enrichment) and draws the negatives of
grounding data from a dictionary of concepts, disjoint from the positives (paper, sec. 3.1). The
paper's dictionary is not public; ``detclip2 concepts`` builds one.
"""

import dataclasses
import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.names import read_builtin
from detclip2.utils.errors import UserError
from detclip2.utils.json_text import parse_json

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_PARENTHESIS = re.compile(r"[ _]*\([^)]*\)")
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "dice": "die",
}
# Plural ending -> the singular endings to try, in order (after WordNet's morphy).
_ENDINGS = (
    ("men", ("man",)),
    ("ies", ("y", "ie")),
    ("ves", ("f", "fe", "ve")),
    ("oes", ("o", "oe")),
    ("sses", ("ss",)),
    ("ses", ("se", "s")),
    ("xes", ("x", "xe")),
    ("zes", ("ze", "z")),
    ("ches", ("ch", "che")),
    ("shes", ("sh", "she")),
    ("s", ("",)),
)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in lower case; a text without any (an emoji) is one word."""
    return tuple(_WORD.findall(text.casefold())) or (text.casefold(),)


def bare_name(name: str) -> str:
    """The name without parentheses: "mouse" for "mouse (computer equipment)"."""
    return _PARENTHESIS.sub("", name)


@functools.lru_cache(maxsize=100_000)
def singular_forms(word: str) -> tuple[str, ...]:
    """The word (lower case), then the singulars that it may be the plural of.

    They follow from the rules of English spelling alone and need not be words.
    """
    forms = [word]
    if word in _IRREGULAR:
        forms.append(_IRREGULAR[word])
    for ending, replacements in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            forms += [word[: -len(ending)] + replacement for replacement in replacements]
            break
    return tuple(forms)


def variants(words: Sequence[str]) -> list[tuple[str, ...]]:
    """The words, then the words with the last one in its singular forms ("sports balls")."""
    return [(*words[:-1], form) for form in singular_forms(words[-1])]


@dataclasses.dataclass(frozen=True)
class Concept:
    """One entry of the dictionary.

    Attributes:
        name: name of the concept in phrases.
        definition: one line; "" if there is none.
        synonyms: other names.
        source: origin of the entry, such as "lvis" or "wordnet".
        count: number of occurrences in data; 0 if unknown.
    """

    name: str
    definition: str = ""
    synonyms: tuple[str, ...] = ()
    source: str = ""
    count: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the synonyms."""
        return (self.name, *self.synonyms)


class ConceptDictionary:
    """Concepts by name: gives their definitions, and negatives for captions.

    Args:
        concepts: the entries; their names differ (ignoring case).

    Raises:
        UserError: a name is empty or not unique.
    """

    def __init__(self, concepts: Iterable[Concept]):
        self.concepts = list(concepts)
        self._exact: dict[tuple[str, ...], int] = {}  # words -> entry
        self._any_form: dict[tuple[str, ...], int] = {}  # the same, with singular forms
        self._related: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._kinds_of: dict[tuple[str, ...], list[int]] = defaultdict(list)
        seen: set[str] = set()
        for concept in self.concepts:
            if not concept.name or concept.name.casefold() in seen:
                what = f"the concept {concept.name!r} is there twice" if concept.name else ""
                raise UserError(what or f"a concept has no name: {concept}")
            seen.add(concept.name.casefold())
        self._index()
        self._longest = max((len(words) for words in self._related), default=0)

    def _index(self) -> None:
        """Fill the tables; names have priority, then synonyms, then "bow" for "bow (weapon)"."""
        names = [[words_of(c.name)] for c in self.concepts]
        synonyms = [[words_of(s) for s in c.synonyms] for c in self.concepts]
        bare = [[words_of(bare_name(n)) for n in c.names] for c in self.concepts]
        for level in (names, synonyms, bare):
            for index, keys in enumerate(level):
                for words in keys:
                    self._exact.setdefault(words, index)
                    for form in variants(words):
                        self._any_form.setdefault(form, index)
                        self._related[form].append(index)
                        for start in range(1, len(form)):
                            self._kinds_of[form[start:]].append(index)

    @classmethod
    def from_names(cls, names: Iterable[str], source: str = "") -> "ConceptDictionary":
        """A dictionary of names without definitions; repetitions are skipped."""
        distinct = {name.casefold(): name for name in map(clean_phrase, names) if name}
        return cls([Concept(name, source=source) for name in distinct.values()])

    @classmethod
    def builtin(cls, name: str) -> "ConceptDictionary":
        """The categories of a list that ships with the package; only "lvis" has definitions.

        Raises:
            UserError: there is no such list.
        """
        entries, definitions = read_builtin(name)
        return cls(
            Concept(label, definitions.get(label, ""), tuple(synonyms), name)
            for label, *synonyms in entries
        )

    @classmethod
    def load(cls, path: str | Path) -> "ConceptDictionary":
        """Read a file that `save` wrote: one json object a line.

        Raises:
            UserError: the file is missing, or a line is not an entry.
        """
        try:
            # Not splitlines, which also splits at characters that a definition may have.
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"concept dictionary {path}: {error}") from error
        concepts = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                concepts.append(_parse(line, f"concept dictionary {path}, line {number}"))
        return cls(concepts)

    def save(self, path: str | Path) -> None:
        """Write the entries as text, one json object a line."""
        with open(path, "w", encoding="utf-8") as file:
            for concept in self.concepts:
                fields = {k: v for k, v in dataclasses.asdict(concept).items() if v}
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def __len__(self) -> int:
        return len(self.concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self.concepts)

    def lookup(self, name: str) -> Concept | None:
        """The entry of a name, found by its words or else their singular; None if there is none."""
        words = words_of(name)
        index = self._exact.get(words)
        if index is None:
            found = [self._exact.get(form) for form in variants(words)]
            found += [self._any_form.get(form) for form in variants(words)]
            index = next((i for i in found if i is not None), None)
        return None if index is None else self.concepts[index]

    def definition(self, name: str) -> str:
        """The definition of a name's entry; "" if there is none."""
        concept = self.lookup(name)
        return concept.definition if concept else ""

    def sample_negatives(
        self, rng: np.random.Generator, number: int, exclude: Iterable[str] = ()
    ) -> list[str]:
        """Draw names of concepts, uniformly and without repetition.

        Args:
            rng: random generator.
            number: number of names; fewer are returned if the dictionary has no more.
            exclude: positives and captions. Concepts whose name, synonym or plural one of them has
                are not drawn, nor kinds of its last words ("fire engine" for "an engine"), which
                may be in the image.
        """
        texts = list(exclude)
        banned = self.related(texts)
        size = min(len(self), number + len(banned))
        order = rng.choice(len(self), size, replace=False).tolist()
        return [self.concepts[i].name for i in order if i not in banned][:number]

    def related(self, texts: Iterable[str]) -> set[int]:
        """Indices of the entries that a text names, or that are kinds of its last words."""
        found: set[int] = set()
        for text in texts:
            words = words_of(text)
            for start in range(len(words)):
                for stop in range(start + 1, min(len(words), start + self._longest) + 1):
                    for form in variants(words[start:stop]):
                        found.update(self._related.get(form, ()))
                        if stop == len(words):
                            found.update(self._kinds_of.get(form, ()))
        return found


def _parse(line: str, where: str) -> Concept:
    try:
        fields = parse_json(line)
        concept = Concept(**{**fields, "synonyms": tuple(fields.get("synonyms", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: expected an entry with a name, got {line[:80]!r}") from error
    texts = (concept.name, concept.definition, concept.source, *concept.synonyms)
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: name, definition, source and synonyms are strings")
    return concept
