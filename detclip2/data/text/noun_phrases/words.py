"""Tags of words without context, from closed-class word lists and word endings."""

import functools
import re
from collections import defaultdict
from importlib import resources

# The tags of the chunker, one letter a word.
ARTICLE = "D"  # before a phrase, not part of it: "the", "his"
QUANTIFIER = "Q"  # likewise: "two", "several"
ADJECTIVE = "J"
NOUN = "N"  # also every unknown word
GERUND = "G"  # -ing: verb or modifier
GERUND_NOUN = "g"  # -ing: noun unless an object follows ("painting")
PARTICIPLE = "E"  # -ed and irregular ones: verb or modifier
PARTICIPLE_NOUN = "e"  # noun unless it follows one: "set", "cut"
VERB = "V"
VERB_NOUN = "v"  # noun or verb, depending on the neighbours: "stop", "walks"
PREPOSITION = "P"
CONJUNCTION = "C"
SUBJECT = "S"  # pronoun or auxiliary: a verb may follow
ADVERB = "M"
COMMA = ","
BREAK = "."

_HAS_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"\d[\d.,:/x%]*|\d+k")
_VOWELS = "aeiou"


@functools.cache
def word_lists() -> dict[str, tuple[str, ...]]:
    """Lists of ``resources/noun_phrase_words.txt``: name -> its lines, without comments."""
    text = (
        resources.files("detclip2.resources").joinpath("noun_phrase_words.txt").read_text("utf-8")
    )
    lists: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
        elif line and not line.startswith("#"):
            lists[name].append(line)
    return {name: tuple(lines) for name, lines in lists.items()}


@functools.cache
def words_of(name: str) -> frozenset[str]:
    """The words of one list."""
    return frozenset(word for line in word_lists()[name] for word in line.split())


@functools.cache
def idioms() -> dict[str, dict[tuple[str, ...], str]]:
    """First word -> {the words of an idiom: its tag}."""
    table: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for kind, tag in (("noun", NOUN), ("adverb", BREAK), ("preposition", PREPOSITION)):
        for line in word_lists()[f"idioms: {kind}"]:
            for idiom in line.split(";"):
                words = tuple(idiom.split())
                table[words[0]][words] = tag
    return dict(table)


@functools.cache
def gerund_compounds() -> dict[str, frozenset[str]]:
    """Gerund -> nouns that form a compound with it ("parking": "lot", ...)."""
    pairs = (line.split(":") for line in word_lists()["gerund compounds"])
    return {gerund: frozenset(nouns.split()) for gerund, nouns in pairs}


def s_form(verb: str) -> str:
    """Third person singular of a verb, or plural of a noun, by the regular rules."""
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + "s"


@functools.cache
def _lexicon() -> dict[str, str]:
    """Word -> tag; of several lists with a word, the last one below decides."""
    tags: dict[str, str] = {}
    verbs, also_nouns = words_of("verbs"), words_of("verbs that are also nouns")
    tags.update((form, VERB) for verb in verbs for form in (verb, s_form(verb)))
    tags.update((form, VERB_NOUN) for verb in also_nouns for form in (verb, s_form(verb)))
    for name, tag in (
        ("verb forms", VERB),
        ("adjectives", ADJECTIVE),
        ("adjective endings", ADJECTIVE),
        ("participles", PARTICIPLE),
        ("participles like nouns", PARTICIPLE_NOUN),
        ("noun endings", NOUN),
        ("gerund nouns", GERUND_NOUN),
        ("plurals", NOUN),
        ("degree adverbs", ADVERB),
        ("adverbs", BREAK),
        ("prepositions", PREPOSITION),
        ("conjunctions", CONJUNCTION),
        ("auxiliaries", SUBJECT),
        ("pronouns", SUBJECT),
        ("quantifiers", QUANTIFIER),
        ("articles", ARTICLE),
    ):
        tags.update(dict.fromkeys(words_of(name), tag))
    return tags


@functools.lru_cache(maxsize=65536)
def tag_of(word: str) -> str:
    """The tag of a lower-case word without context, which may change it (``chunker``)."""
    known = _lexicon().get(word)
    if known:
        return known
    if _HAS_DIGIT.search(word):
        return QUANTIFIER if _NUMBER.fullmatch(word) else NOUN
    if len(word) > 3 and word.endswith("ed"):
        return PARTICIPLE
    if len(word) > 4:
        if word.endswith("ly"):
            return ADVERB
        if word.endswith("ing"):
            return GERUND
        if word.endswith(("ous", "ful", "less", "able", "ible")):
            return ADJECTIVE
    return NOUN


def is_plural(noun: str) -> bool:
    """Whether a lower-case noun is a plural, by its ending."""
    if noun in words_of("plurals"):
        return True
    if noun in words_of("singulars in s") or noun.endswith(("'s", "s'")):
        return False
    return noun.endswith("s") and not noun.endswith(("ss", "us", "is"))


def singular_of(noun: str) -> str:
    """The singular of a regular plural, by its ending; other words are unchanged."""
    if not is_plural(noun):
        return noun
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zzes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") else noun
