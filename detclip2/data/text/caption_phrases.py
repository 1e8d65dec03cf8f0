"""The phrases of a caption as a vocabulary that keeps the caption."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detclip2.data.text.clean import unique_phrases
from detclip2.data.text.noun_phrases import extract_noun_phrases
from detclip2.data.text.spans import Span, find_phrase, readable
from detclip2.utils.errors import UserError


@dataclass(frozen=True)
class CaptionPhrases(Sequence[str]):
    """C phrases of a caption: names for a model that encodes phrases apart.

    A model that fuses text and image reads the whole caption, and takes the scores of a phrase from
    its place in it.
    """

    caption: str
    phrases: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]
    """For each phrase its [begin, end) pairs of characters of the caption."""

    @classmethod
    def find(cls, caption: str, phrases: Sequence[str] | None = None) -> "CaptionPhrases":
        """The noun phrases of an English caption, in the caption's own words.

        A phrase that the caption has several times is there once, with several spans; not those
        that lie inside of another phrase, if it has others ("dog" in "hot dog").

        Args:
            caption: a text; it becomes one line without control characters.
            phrases: phrases to use instead of the noun phrases.

        Raises:
            UserError: the caption is empty or has no noun phrase, or lacks one of ``phrases``.
        """
        text = unicodedata.normalize("NFC", " ".join(readable(caption).split()))
        if not text:
            raise UserError("the caption is empty: say in a sentence what the image shows")
        if phrases is None:
            asked = extract_noun_phrases(text, max_phrases=len(text))
        else:
            asked = unique_phrases(list(phrases))
        spans = {phrase: _find(text, phrase) for phrase in asked}
        if phrases is None:
            # An entity of html is not found: its phrase has the character.
            spans = {phrase: found for phrase, found in spans.items() if found}
        elif absent := [phrase for phrase, found in spans.items() if not found]:
            raise UserError(f"the caption {text[:80]!r} does not have the phrase {absent[0]!r}")
        if not spans:
            raise UserError(
                f"there is no noun phrase in {text[:80]!r}: name the things in the image, as in "
                '"a cat on a red chair"'
            )
        own = [_outside_of(found, spans.values()) for found in spans.values()]
        names = [text[begin:end] for (begin, end), *_ in own]
        return cls(text, tuple(names), tuple(map(tuple, own)))

    def __getitem__(self, index: Any) -> Any:
        """A phrase, or several of a slice."""
        return self.phrases[index]

    def __len__(self) -> int:
        """C, the number of phrases."""
        return len(self.phrases)


def _find(caption: str, phrase: str) -> list[Span]:
    """The spans of a noun phrase, also where the chunker writes other marks ("music 's")."""
    if spans := find_phrase(caption, phrase):
        return spans
    words = r"\W{1,4}".join(re.findall(r"\w+", phrase))
    pattern = rf"(?<!\w){words}(?!\w)" if words else r"(?!)"
    return [match.span() for match in re.finditer(pattern, caption, re.IGNORECASE)]


def _outside_of(spans: list[Span], of_phrases: Any) -> list[Span]:
    """Those of a phrase's spans that are not part of another phrase's, or all if all are."""
    others = [span for of_phrase in of_phrases for span in of_phrase]
    outside = [
        (begin, end)
        for begin, end in spans
        if not any(b <= begin and end <= e and (b, e) != (begin, end) for b, e in others)
    ]
    return outside or spans
