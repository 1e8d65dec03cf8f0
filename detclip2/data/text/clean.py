"""Clean phrases: text from files becomes one line without control characters."""

import re
import unicodedata
from typing import Any

MAX_PHRASE_LENGTH = 1000  # characters; the text tower reads 16 tokens (paper, sec. 4.1)

_KEPT = frozenset("\u200c\u200d")  # zero-width (non-)joiner
_DROPPED = frozenset({"Cc", "Cf", "Cs"})  # control, format, lone surrogate
_WHITESPACE = re.compile(r"\s+")
_WORD_CHARACTER = re.compile(r"\w")


def clean_phrase(text: str) -> str:
    """The text as a phrase: NFC, one line, no control characters, at most 1,000 characters.

    Zero-width joiners stay (emoji and some scripts are written with them); other format
    characters, lone surrogates and the replacement character go.
    """
    # Truncate first, so that a "caption" of 100 MB takes no longer than a long one.
    text = _WHITESPACE.sub(" ", text[: 4 * MAX_PHRASE_LENGTH])
    text = "".join(filter(is_kept, text))
    text = unicodedata.normalize("NFC", text.replace("\ufffd", ""))
    return _WHITESPACE.sub(" ", text).strip()[:MAX_PHRASE_LENGTH].rstrip()


def is_kept(character: str) -> bool:
    """Whether a phrase may have it: neither a control or format character nor a lone surrogate."""
    return character in _KEPT or unicodedata.category(character) not in _DROPPED


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit, of any script."""
    return _WORD_CHARACTER.search(text) is not None


def unique_phrases(phrases: list[str]) -> list[str]:
    """The cleaned phrases in order, without empty ones and repetitions (ignoring case)."""
    found: dict[str, str] = {}
    for phrase in map(clean_phrase, phrases):
        if phrase:
            found.setdefault(phrase.casefold(), phrase)
    return list(found.values())


def read_phrases(phrases: Any) -> list[str]:
    """The phrases that a record of a file gives: a list of texts, or one text.

    Raises:
        TypeError: they are anything else that json can hold, such as a number or a list of objects.
    """
    listed = [phrases] if isinstance(phrases, str) else phrases
    if not isinstance(listed, list | tuple):
        raise TypeError(f"phrases are a {type(phrases).__name__}, not a list of texts")
    for phrase in listed:
        if not isinstance(phrase, str):
            raise TypeError(f"a phrase is a {type(phrase).__name__}, not a text: {phrase!r:.80}")
    return list(listed)
