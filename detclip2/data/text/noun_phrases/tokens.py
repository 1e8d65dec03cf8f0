"""Tokens of a caption: words, commas, and marks that end a phrase."""

import html
import re
import unicodedata

from detclip2.data.text.noun_phrases import words as w

MAX_CHARACTERS = 20_000  # read of a caption; longer text is not a caption

# Letters of Latin script only, since the chunker is for English.
_LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_TOKEN = re.compile(
    r"(?:[a-z]\.){2,}"  # an abbreviation: u.s.
    rf"|[{_LETTER}\d]+(?:[-'][{_LETTER}\d]+|(?<=\d)[.,:/]\d+)*(?:(?<=s)'\Z)?"  # a word: kids'
    r"|&|,|\S"
)
_WORD_START = re.compile(rf"[{_LETTER}\d]")
_FILE_NAME = re.compile(r".*\.(?:jpe?g|png|gif|webp|com|org|net|html?)\W*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<(\w{1,20})>")  # CC12M writes <PERSON> for names
# Typographic quotes and hyphens -> ' and -
_QUOTES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4\u2010\u2011", "'''''--")


def tokenize(caption: str) -> list[str]:
    """Lower-case tokens; each URL and file name becomes a mark."""
    text = unicodedata.normalize("NFC", caption[:MAX_CHARACTERS])
    if "&" in text:
        text = html.unescape(text)
    text = _PLACEHOLDER.sub(r" \1 ", text)
    tokens: list[str] = []
    for part in text.translate(_QUOTES).lower().split():
        if "_" in part or "://" in part or part.startswith("www.") or _FILE_NAME.fullmatch(part):
            tokens.append("|")
        else:
            tokens.extend(_TOKEN.findall(part))
    return _rejoin(tokens)


def _rejoin(tokens: list[str]) -> list[str]:
    """Join words that another tokenizer has split: "music 's", "close - up"."""
    joined: list[str] = []
    i = 0
    while i < len(tokens):
        before = joined[-1] if joined else ""
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        if tokens[i] == "'" and after in ("s", "t", "re", "ll", "ve", "d", "m") and is_word(before):
            joined[-1] += "'" + after
            i += 2
        elif tokens[i] == "-" and _is_hyphen(before, after):
            joined[-1] += "-" + after
            i += 2
        else:
            joined.append(tokens[i])
            i += 1
    return joined


def _is_hyphen(before: str, after: str) -> bool:
    if not (is_word(before) and is_word(after)):
        return False
    return before in w.words_of("hyphen prefixes") or after in w.words_of("hyphen suffixes")


def is_word(token: str) -> bool:
    """Whether a token is a word or number, not a mark."""
    return bool(_WORD_START.match(token))
