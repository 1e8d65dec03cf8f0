"""A vocabulary in one line: for a person, and for the protocol of an evaluation."""

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detclip2.inference.vocabulary import Vocabulary


def summary_of(vocabulary: "Vocabulary") -> str:
    """Its sizes, first names, and encoder."""
    embeddings = vocabulary.embeddings
    width = "" if embeddings is None else f", {embeddings.shape[1]} wide"
    encoded = "not encoded" if embeddings is None else f"encoded by {vocabulary.encoder!r}{width}"
    return (
        f"Vocabulary({len(vocabulary)} labels: {_beginning(vocabulary.labels)}; "
        f"{sum(map(len, vocabulary.prompts))} rows; synonyms by {vocabulary.synonyms}; "
        f"{len(vocabulary.templates)} templates: {_beginning(vocabulary.templates)}; {encoded})"
    )


def description_of(vocabulary: "Vocabulary") -> str:
    """What a model is asked for: names, templates, definitions, synonyms, examples, encoder."""
    count = len(vocabulary)
    parts = [_counted(count, "name", vocabulary.labels)]
    templates = vocabulary.templates
    if templates != ("{}",):
        parts.append(_counted(len(templates), "template", templates))
    if defined := sum(map(bool, vocabulary.definitions)):
        parts.append(f"{'' if defined == count else f'{defined} '}with definitions")
    texts = sum(len(texts) for rows in vocabulary.prompts for texts in rows)
    shown = len(vocabulary.of_examples)
    if others := texts // len(templates) - (count - shown):
        parts.append(f"{others} synonym{'s' * (others != 1)} by {vocabulary.synonyms}")
    if shown:
        parts.append(f"{shown} by example boxes")
    if vocabulary.encoder:
        parts.append(f"text encoder {vocabulary.encoder}")
    return ", ".join(parts)


def _counted(number: int, what: str, texts: Sequence[str]) -> str:
    """E.g. "80 names (person, bicycle, ...)"."""
    shown = ", ".join([*texts[:2], *(["..."] if number > 2 else [])])
    return f"{number} {what}{'s' * (number != 1)} ({shown})"


def _beginning(texts: Sequence[str]) -> str:
    return ", ".join([*map(reprlib.repr, texts[:3]), *(["..."] if len(texts) > 3 else [])])
