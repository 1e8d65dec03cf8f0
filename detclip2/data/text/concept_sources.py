"""Sources of a concept dictionary: category lists, noun phrases and WordNet, merged.

``detclip2 concepts`` reads them into a `ConceptDictionary`.
"""

import csv
import dataclasses
import io
import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.concepts import Concept, bare_name, variants, words_of
from detclip2.data.text.names import read_names
from detclip2.utils.errors import UserError

WORDNET_FOLDER = "/usr/share/wordnet"


def read_categories(path: Path, source: str) -> list[Concept]:
    """The entries of a category list.

    Args:
        path: .txt with a name a line; .csv with a header that has ``name``, or with rows of number,
            name (Objects365); .json with COCO's or LVIS's ``categories``, a list of such, a list
            of names, or a map of labels to names. "Cabinet/shelf" is a cabinet that is also called
            shelf.
        source: name of the list, kept in the entries.
    """
    if path.suffix.lower() == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get("categories", list(content.values()))
        items = [item if isinstance(item, dict) else {"name": item} for item in content]
    elif path.suffix.lower() == ".csv" and (rows := _numbered_rows(path)):
        items = [{"name": row[1]} for row in rows]
    else:
        entries, definitions = read_names(path)
        items = [
            {"name": name, "synonyms": synonyms, "def": definitions.get(name, "")}
            for name, *synonyms in entries
        ]
    concepts = [_concept(item, source) for item in items]
    return [concept for concept in concepts if concept.name]


def _numbered_rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    return rows if all(len(row) > 1 and row[0].strip().isdigit() for row in rows) else []


def _concept(item: dict[str, Any], source: str) -> Concept:
    names = [*str(item.get("name") or "").split("/"), *map(str, item.get("synonyms") or ())]
    cleaned = [clean_phrase(name.replace("_", " ")) for name in names]
    name, *synonyms = cleaned
    definition = clean_phrase(str(item.get("def") or item.get("definition") or ""))
    return Concept(name, definition, _others(name, synonyms), source)


def read_phrases(path: Path, source: str, min_count: int) -> list[Concept]:
    """The noun phrases of a file with at least `min_count` occurrences, the most frequent first."""
    counts: Counter[str] = Counter()
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            phrases = json.loads(line).get("phrases", ()) if path.suffix == ".jsonl" else [line]
            counts.update(clean_phrase(phrase).casefold() for phrase in phrases)
    frequent = [(p, c) for p, c in counts.most_common() if c >= min_count and p]
    return [Concept(phrase, source=source, count=count) for phrase, count in frequent]


def merge_concepts(concepts: Iterable[Concept]) -> list[Concept]:
    """Merge entries of the same concept; order of first appearance.

    An entry with the name of an earlier one (a name, synonym or plural, or "mouse" for "mouse
    (computer equipment)") is merged into it, unless both have definitions that differ. Then it is a
    separate entry, or is skipped if the names are equal: a name has one definition.
    """
    merged: list[Concept] = []
    # Names themselves go before other names, and those before names without their "(...)".
    by_name: dict[tuple[str, ...], int] = {}
    by_other: dict[tuple[str, ...], int] = {}
    by_bare: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for concept in concepts:
        words = words_of(concept.name)
        forms = variants(words)
        candidates = [table.get(form) for table in (by_name, by_other) for form in forms]
        if len(by_bare[words]) == 1:
            candidates += by_bare[words]
        index = next((i for i in candidates if i is not None and _agree(merged[i], concept)), None)
        if index is None:
            if words in by_name:
                continue  # a name has one definition, the earlier one
            index = len(merged)
            merged.append(concept)
            by_name[words] = index
        else:
            merged[index] = _union(merged[index], concept)
        for name in concept.names:
            for form in variants(words_of(name)):
                by_other.setdefault(form, index)
            if bare_name(name) != name:
                by_bare[words_of(bare_name(name))].add(index)
    return merged


def _agree(a: Concept, b: Concept) -> bool:
    return not a.definition or not b.definition or a.definition == b.definition


def _union(a: Concept, b: Concept) -> Concept:
    sources = dict.fromkeys([*a.source.split("+"), *b.source.split("+")])
    return Concept(
        a.name,
        a.definition or b.definition,
        _others(a.name, [*a.synonyms, *b.names]),
        "+".join(filter(None, sources)),
        a.count + b.count,
    )


def _others(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names other than `name`, each once."""
    distinct = {words_of(other): other for other in reversed(list(names)) if other}
    distinct.pop(words_of(name), None)
    return tuple(reversed(distinct.values()))


class WordNet:
    """Nouns of WordNet, through nltk.

    The sense of a name is the most frequent one that is a physical entity, if there is one: a
    "spring" is a coil, not a season.

    Args:
        folder: with WordNet's ``data.noun``, ``index.noun`` ...

    Raises:
        UserError: if nltk or a file is missing.
    """

    def __init__(self, folder: str | Path):
        folder = str(Path(folder).resolve())
        try:
            import nltk
            from nltk.corpus.reader.wordnet import WordNetCorpusReader
        except ImportError as error:
            raise UserError(
                "WordNet is read through nltk: pip install 'detclip2[wordnet]'"
            ) from error

        class Reader(WordNetCorpusReader):
            def open(self, file: str):
                # Debian lacks this list of names of WordNet's own files, which we never ask
                # for; nltk does not start without it.
                if file == "lexnames" and not Path(folder, file).exists():
                    return io.StringIO("".join(f"{i:02d} lexname{i} 0\n" for i in range(45)))
                return super().open(file)

            def map_wn(self, version: str = "wordnet") -> None:
                """Load no other languages, which would need more files."""

        if folder not in nltk.data.path:
            nltk.data.path.append(folder)  # nltk opens files below these folders only
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # states that there are no other languages
                self._reader = Reader(folder, None)
        except OSError as error:
            raise UserError(f"WordNet in {folder}: {error} (Debian: wordnet-base)") from error
        self._physical = self._reader.synset("physical_entity.n.01")

    def define(self, name: str) -> Concept | None:
        """The entry of a name: the most frequent sense, of physical entities if there is one."""
        senses = self._reader.synsets("_".join(words_of(name)), pos="n")
        physical = [sense for sense in senses if self._physical in set(sense.closure(_hypernyms))]
        return self._concept((physical or senses)[0]) if senses else None

    def below(self, synset_name: str) -> Iterator[Concept]:
        """The entries of all synsets below one, such as "animal.n.01"."""
        from nltk.corpus.reader.wordnet import WordNetError

        try:
            root = self._reader.synset(synset_name)
        except (WordNetError, ValueError) as error:
            raise UserError(f"WordNet has no synset {synset_name!r}: {error}") from error
        for synset in root.closure(lambda s: s.hyponyms()):
            yield self._concept(synset)

    def nouns(self) -> Iterator[Any]:
        """All synsets of nouns, as nltk objects."""
        return self._reader.all_synsets("n")

    @staticmethod
    def _concept(synset: Any) -> Concept:
        name, *synonyms = [lemma.replace("_", " ") for lemma in synset.lemma_names()]
        definition = clean_phrase(synset.definition())
        return Concept(name, definition, _others(name, synonyms), "wordnet")


def _hypernyms(synset: Any) -> list[Any]:
    return [*synset.hypernyms(), *synset.instance_hypernyms()]


def add_definitions(concepts: Iterable[Concept], wordnet: WordNet) -> Iterator[Concept]:
    """The entries; those without a definition get that of WordNet, and its synonyms."""
    for concept in concepts:
        found = None if concept.definition else wordnet.define(concept.name)
        yield (
            concept
            if found is None
            else dataclasses.replace(_union(concept, found), name=concept.name)
        )
