"""A chunker for English captions: words -> tags -> base noun phrases, in linear time.

1. A caption is split into tokens: words, commas, and marks that end a phrase (``tokens``).
2. Each word gets its tag without context (``words.tag_of``).
3. From left to right, the tags before and after an ambiguous word decide its tag (``_Tagger``).
   Each word is read at most a fixed number of times.
4. Runs of modifiers that end in a noun are the phrases (``chunk``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from detclip2.data.text.noun_phrases import words as w
from detclip2.data.text.noun_phrases.tokens import is_word, tokenize


@dataclass(frozen=True)
class Chunk:
    """A base noun phrase before post-processing.

    Attributes:
        words: its words in lower case, without the stripped ones.
        next_word: the word or mark right after it, "" at the end.
        opens: whether only articles and quantifiers come before it.
    """

    words: list[str]
    next_word: str
    opens: bool


def _merge_idioms(tokens: list[str]) -> tuple[list[str], list[str]]:
    """The tokens, with each idiom joined into one, and their tags without context."""
    merged: list[str] = []
    tags: list[str] = []
    i = 0
    while i < len(tokens):
        word, tag, length = tokens[i], "", 1
        for idiom, idiom_tag in w.idioms().get(word, {}).items():
            if tuple(tokens[i : i + len(idiom)]) == idiom and len(idiom) > length:
                word, tag, length = " ".join(idiom), idiom_tag, len(idiom)
        merged.append(word)
        tags.append(tag or _tag_alone(word))
        i += length
    return merged, tags


def _tag_alone(token: str) -> str:
    if token == "&":
        return w.CONJUNCTION
    if token == ",":
        return w.COMMA
    return w.tag_of(token) if is_word(token) else w.BREAK


_NOMINAL = frozenset("NJvGgEe")  # tags that can continue a phrase
_AFTER_PARTICIPLE = frozenset("DQPMS")
_AFTER_VERB = _AFTER_PARTICIPLE | {"."}  # tags after a verb with the form of a noun
_PARTICLES = frozenset(("up", "down", "out", "off", "away"))


class _Tagger:
    """Decides the tags of ambiguous words, by the decided tag before and the open tag after."""

    def __init__(self, tokens: list[str], tags: list[str]):
        self.tokens = tokens
        self.open = tags
        self.tags: list[str] = []
        self.opener = ""  # the token before the current noun phrase
        self.has_finite_verb = False  # of the current clause

    def run(self) -> list[str]:
        rules = {
            "v": self._verb_or_noun,
            "V": self._verb,
            "N": self._unknown,
            "G": self._gerund,
            "g": self._gerund_noun,
            "E": self._participle,
            "e": self._participle_noun,
            "M": self._adverb,
        }
        for i, tag in enumerate(self.open):
            before = self.tags[-1] if i else ""
            after = self.open[i + 1] if i + 1 < len(self.open) else ""
            rule = rules.get(tag)
            self.tags.append(rule(i, before, after) if rule else tag)
            self._follow(i, before)
        return self.tags

    def _follow(self, i: int, before: str) -> None:
        """Update the state of the phrase and the clause after token i is decided."""
        tag, token = self.tags[i], self.tokens[i]
        if tag in "JN" and before not in ("J", "N", "M"):
            self.opener = self.tokens[i - 1] if i else ""
        if token in w.words_of("auxiliaries") or (tag == w.VERB and self.open[i] in "vVN"):
            self.has_finite_verb = True
        elif tag in ".C,S" or token == "as":
            self.has_finite_verb = False

    def _has_subject(self, i: int) -> bool:
        """Whether the noun before token i can be its subject: "dogs run", "a dog runs"."""
        if self.has_finite_verb:
            return False
        if w.is_plural(self.tokens[i - 1]):
            return not self.tokens[i].endswith("s")
        # A singular that is a phrase by itself has an article, except in telegraphic captions
        # ("cat sits on"): "on street signs in the city" has no verb.
        return self.tokens[i].endswith("s") and self._opens_singular()

    def _opens_singular(self) -> bool:
        tag = w.tag_of(self.opener) if self.opener else ""
        return tag in ("", "D", "C") or self.opener in ("one", "each", "every", "another", ".")

    def _verb_or_noun(self, i: int, before: str, after: str) -> str:
        previous = self.tokens[i - 1] if i else ""
        if previous == "to":
            return w.VERB if self._is_infinitive(i, after) else w.NOUN
        if before == w.SUBJECT:
            # "is play" does not occur; "that stops", "can fish", "they walk" do.
            return w.VERB if after in _AFTER_VERB or not after else w.NOUN
        if before == w.NOUN and self._has_subject(i) and after in _AFTER_VERB:
            return w.VERB
        if before in ("", ".", "C", ",") and after == "D":
            return w.VERB
        return w.NOUN

    def _is_infinitive(self, i: int, after: str) -> bool:
        """After "to": "to type up the notes", "to stop a car", but "to work"."""
        return after == "D" or (bool(after) and self.tokens[i + 1] in _PARTICLES)

    def _verb(self, i: int, before: str, after: str) -> str:
        return w.NOUN if before in ("D", "J") else w.VERB

    def _unknown(self, i: int, before: str, after: str) -> str:
        """An unknown word between a noun that it agrees with and an article is a verb."""
        word = self.tokens[i]
        if word == "can" and before not in ("D", "J"):
            following = self.tokens[i + 1] if after else ""
            is_modal = after in ("V", "v", "M") or following in w.words_of("auxiliaries")
            return w.SUBJECT if is_modal else w.NOUN
        if i and self.tokens[i - 1] == "to" and self._is_infinitive(i, after):
            return w.VERB
        known = word in w.words_of("plurals") or word in w.words_of("noun endings") or " " in word
        if before == w.NOUN and after == "D" and not known and self._has_subject(i):
            return w.VERB
        return w.NOUN

    def _gerund(self, i: int, before: str, after: str) -> str:
        word = self.tokens[i]
        following = self.tokens[i + 1] if i + 1 < len(self.tokens) else ""
        if w.singular_of(following) in w.gerund_compounds().get(word, ()):
            return w.ADJECTIVE
        if after not in _NOMINAL:
            # "the skill of swimming ." but "after swimming in the sea"
            alone = before == "D" or (before == "P" and after in ("", "."))
            return w.NOUN if alone else w.VERB
        if before in ("D", "Q", "J", "M"):
            return w.ADJECTIVE
        if before == w.SUBJECT:
            return w.VERB
        is_modifier = word in w.words_of("participle modifiers") and after != "J"
        return w.ADJECTIVE if is_modifier and before != w.NOUN else w.VERB

    def _gerund_noun(self, i: int, before: str, after: str) -> str:
        if before in ("D", "Q", "J", "P"):
            return w.NOUN
        return w.VERB if after in ("D", "Q", "J") else w.NOUN

    def _participle(self, i: int, before: str, after: str) -> str:
        if after not in _NOMINAL:
            return w.VERB
        if before == w.NOUN:
            word = self.tokens[i].rsplit("-", 1)[-1]
            is_part = word in w.words_of("compound participles") or word.endswith("colored")
            return w.ADJECTIVE if is_part else w.VERB
        return w.VERB if before == w.SUBJECT else w.ADJECTIVE

    def _participle_noun(self, i: int, before: str, after: str) -> str:
        return w.VERB if before in ("N", "S") and after in _AFTER_PARTICIPLE else w.NOUN

    def _adverb(self, i: int, before: str, after: str) -> str:
        """An adverb stays in a phrase if it modifies a modifier: "a brightly colored umbrella"."""
        return w.ADVERB if after in ("J", "E", "G", "M") and before != w.NOUN else w.BREAK


def chunk(caption: str) -> Iterator[Chunk]:
    """The base noun phrases of a caption, in order, not yet post-processed."""
    tokens, open_tags = _merge_idioms(tokenize(caption))
    tags = [*_Tagger(tokens, open_tags).run(), w.BREAK]
    start, content_seen = 0, False
    for i, tag in enumerate(tags):
        inside = start < i
        if tag in "JNM" and not (inside and _begins_phrase(tokens, tags, i)):
            continue
        if tag in "C," and inside and tags[i - 1] == tags[i + 1] == w.ADJECTIVE:
            continue  # "a big, white seagull", "a black and white photo"
        end = next((end for end in range(i, start, -1) if tags[end - 1] == w.NOUN), start)
        if end > start:
            words = [tokens[k] for k in range(start, end) if tags[k] != w.COMMA]
            next_word = tokens[end] if end < len(tokens) else ""
            yield Chunk(words, next_word, not content_seen)
        content_seen = content_seen or inside or tag not in "DQ"
        start = i if tag in "JNM" else i + 1


def _begins_phrase(tokens: list[str], tags: list[str], i: int) -> bool:
    """Whether a phrase begins at i without a mark: "some bushes trees", "flowers red roses"."""
    if tags[i - 1] != w.NOUN or not w.is_plural(tokens[i - 1]):
        return False
    if tokens[i - 1] in w.words_of("modifying plurals"):
        return False
    return tags[i] == w.ADJECTIVE or w.is_plural(tokens[i])
