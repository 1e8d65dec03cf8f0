"""English phrases of objects: plurals, articles, numbers, and captions with spans of phrases."""

from dataclasses import dataclass

from detclip2.data.emojiscenes.categories import Category

_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "child": "children", "foot": "feet",
    "tooth": "teeth", "mouse": "mice", "goose": "geese", "wolf": "wolves", "loaf": "loaves",
    "leaf": "leaves", "knife": "knives", "scarf": "scarves", "ox": "oxen", "die": "dice",
    "fish": "fish", "sheep": "sheep", "deer": "deer", "moose": "moose", "bison": "bison",
    "tomato": "tomatoes", "potato": "potatoes", "volcano": "volcanoes", "elf": "elves",
    "calf": "calves", "wolverine": "wolverines", "policeman": "policemen", "snowman": "snowmen",
    "superman": "supermen", "merperson": "merpeople", "suv": "suvs", "dice": "dice",
}  # fmt: skip
# These words and those after them are not a name's noun: "slices of pizza", "men with a cap".
_AFTER_THE_NOUN = frozenset(
    """of with without in on from and over at near behind showing getting covering blowing holding
    making raising touching taking doing playing rowing pointing savoring screaming vomiting
    bouncing wearing lifting landing icon""".split()  # noqa: SIM905
)
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
_AN_DESPITE_CONSONANT = ("hour", "x-ray", "heir")
_A_DESPITE_VOWEL = ("uni", "use", "ufo", "euro", "one-", "ukulele")


def plural_of(name: str) -> str:
    """The name in the plural: "slice of pizza" -> "slices of pizza"."""
    words = name.split()
    noun = len(words) - 1
    for place, word in enumerate(words):
        if place > 0 and word in _AFTER_THE_NOUN:
            noun = place - 1
            break
    words[noun] = _plural_of_word(words[noun])
    return " ".join(words)


def _plural_of_word(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def article_of(phrase: str) -> str:
    """The indefinite article of a phrase: "a" or "an"."""
    if phrase.startswith(_AN_DESPITE_CONSONANT):
        return "an"
    if phrase.startswith(_A_DESPITE_VOWEL):
        return "a"
    return "an" if phrase[:1] in "aeiou" else "a"


def counted(category: Category, name: str, adjectives: str, number: int) -> tuple[str, str]:
    """The number or article of a noun phrase ("two ", "a ", "some " or ""), and the phrase.

    The phrase itself has neither, like category names (docs/noun_phrases.md).
    """
    kind = "singular" if name.startswith("pair of") else category.number
    if kind == "singular" and number > 1:
        phrase = f"{adjectives}{plural_of(name)}"
        return _NUMBERS.get(number, "many") + " ", phrase
    phrase = f"{adjectives}{name}"
    if kind == "mass":
        return "some ", phrase
    return ("", phrase) if kind == "plural" else (article_of(phrase) + " ", phrase)


@dataclass(frozen=True)
class Mention:
    """A noun phrase, with the text before it and the indices of its objects."""

    before: str
    phrase: str
    objects: tuple[int, ...] = ()


class Text:
    """A caption under construction, with the spans of characters of its phrases."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[tuple[int, int, Mention]] = []

    def add(self, part: str | Mention) -> "Text":
        """Append text, or a mention."""
        if isinstance(part, str):
            self.text += part
        else:
            start = len(self.text) + len(part.before)
            self.text += part.before + part.phrase
            self.spans.append((start, len(self.text), part))
        return self

    def add_list(self, mentions: list[Mention]) -> "Text":
        """Append "a, b and c"."""
        for place, mention in enumerate(mentions):
            if place:
                self.add(" and " if place == len(mentions) - 1 else ", ")
            self.add(mention)
        return self

    def capitalized(self) -> str:
        """The text with a capital first letter; spans stay valid."""
        return self.text[:1].upper() + self.text[1:]
