"""The concept dictionary: names, definitions, synonyms; prompts and negatives come from it.

DetCLIPv2 writes a category as "name, definition" (concept enrichment) and draws the negatives of
grounding data from a dictionary of concepts, disjoint from the positives (paper, sec. 3.1). The
paper's dictionary is not public: ``scripts/build_concepts.py`` builds one.
"""

import dataclasses
import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detclip2.data.sample import clean_phrase
from detclip2.utils.errors import UserError

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
    """The name without what stands in parentheses: "mouse" of "mouse (computer equipment)"."""
    return _PARENTHESIS.sub("", name)


@functools.lru_cache(maxsize=100_000)
def singular_forms(word: str) -> tuple[str, ...]:
    """What a word (lower case) may be the plural of; the word itself is first.

    Only the rules of English spelling; which form is a word, the reader's vocabulary decides.
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
    """The words, then the words with the last one in the singular ("sports balls")."""
    return [(*words[:-1], form) for form in singular_forms(words[-1])]


@dataclasses.dataclass(frozen=True)
class Concept:
    """One entry of the dictionary.

    Attributes:
        name: how the concept is called in a phrase.
        definition: one line, "" if there is none.
        synonyms: other names.
        source: where the entry comes from, such as "lvis" or "wordnet".
        count: how often it was seen, 0 if nobody counted.
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
    """Concepts by name; calling it makes the prompt of a name.

    Args:
        concepts: the entries; names are distinct (also in other case).
        embed: phrases -> embeddings (M, D), for names that match no entry; see :meth:`lookup`.
        min_similarity: the least cosine for a match by embedding.

    Raises:
        UserError: if a name is empty or there twice.
    """

    def __init__(
        self,
        concepts: Iterable[Concept],
        embed: Callable[[list[str]], Tensor] | None = None,
        min_similarity: float = 0.8,
    ):
        self.concepts = list(concepts)
        self.embed = embed
        self.min_similarity = min_similarity
        self._embeddings: Tensor | None = None
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
        """Fill the tables: names go first, then synonyms, then "bow" of "bow (weapon)"."""
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
        """A dictionary of bare names; repetitions are left out."""
        distinct = {name.casefold(): name for name in map(clean_phrase, names) if name}
        return cls([Concept(name, source=source) for name in distinct.values()])

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> "ConceptDictionary":
        """Read a file that :meth:`save` wrote: one json object a line.

        Args:
            path: the file.
            options: of the constructor.

        Raises:
            UserError: if the file is missing or a line is not an entry.
        """
        try:
            # Not splitlines, which also splits at characters that may occur inside a text.
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"concept dictionary {path}: {error}") from error
        concepts = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                concepts.append(_parse(line, f"concept dictionary {path}, line {number}"))
        return cls(concepts, **options)

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

    def __call__(self, name: str) -> str:
        """The prompt of a name: :meth:`prompt`."""
        return self.prompt(name)

    def lookup(self, name: str) -> Concept | None:
        """The entry of a name: by its words, by their singular, then by embedding.

        By embedding only where the dictionary has ``embed``: the entry with the highest cosine, if
        it reaches ``min_similarity`` (DetCLIP matches unseen names so).
        """
        words = words_of(name)
        index = self._exact.get(words)
        if index is None:
            found = [self._exact.get(form) for form in variants(words)]
            found += [self._any_form.get(form) for form in variants(words)]
            index = next((i for i in found if i is not None), None)
        if index is None and self.embed is not None and self.concepts:
            similarity, index = self._nearest(name)
            if similarity < self.min_similarity:
                return None
        return None if index is None else self.concepts[index]

    def prompt(self, name: str) -> str:
        """Return "name, definition", or the name alone if it has none (paper, sec. 3.1).

        The name stays as the caller wrote it. The text tower cuts the prompt at its 16 tokens.
        """
        concept = self.lookup(name)
        return f"{name}, {concept.definition}" if concept and concept.definition else name

    def sample_negatives(
        self, rng: np.random.Generator, number: int, exclude: Iterable[str] = ()
    ) -> list[str]:
        """Draw names of concepts, uniformly and without repetition.

        Args:
            rng: the generator.
            number: how many; fewer where the dictionary has no more.
            exclude: texts with what is in the image: positives, and the caption. No concept is
                drawn that one of them mentions (by name, synonym or plural), nor a kind of one
                ("fire engine" for "an engine"): it may well be what is in the image.
        """
        texts = list(exclude)
        banned = self.related(texts)
        size = min(len(self), number + len(banned))
        order = rng.choice(len(self), size, replace=False).tolist()
        return [self.concepts[i].name for i in order if i not in banned][:number]

    def related(self, texts: Iterable[str]) -> set[int]:
        """Indices of the entries that a text mentions, or that are a kind of what it ends in."""
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

    def _nearest(self, name: str) -> tuple[float, int]:
        assert self.embed is not None
        if self._embeddings is None:
            embedded = self.embed([concept.name for concept in self.concepts])
            self._embeddings = torch.nn.functional.normalize(embedded.detach().float(), dim=1)
        query = torch.nn.functional.normalize(self.embed([name]).detach().float(), dim=1)
        similarity, index = (self._embeddings @ query[0]).max(dim=0)
        return float(similarity), int(index)


def _parse(line: str, where: str) -> Concept:
    try:
        fields = json.loads(line)
        concept = Concept(**{**fields, "synonyms": tuple(fields.get("synonyms", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: expected an entry with a name, got {line[:80]!r}") from error
    texts = (concept.name, concept.definition, concept.source, *concept.synonyms)
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: name, definition, source and synonyms are strings")
    return concept
