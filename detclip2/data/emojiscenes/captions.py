"""Image-text pairs of EmojiScenes: images with captions like those of the web.

A caption names some of the objects, by any of their names, and has other text. It has no boxes.
Novel categories occur in no other training data.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from detclip2.data.emojiscenes.categories import Category, World, world_of
from detclip2.data.emojiscenes.layout import Layout
from detclip2.data.emojiscenes.naming import Mention, Text, article_of, counted
from detclip2.data.emojiscenes.scenes import LazyScenes, SceneSampler

# `{}` stands for the list of named objects, [brackets] enclose other noun phrases, and <other>
# stands for a category that is not in the image.
PLAIN = (
    "{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "{}.", "this is {}",
    "here is {}", "{} on a [coloured background]", "look at {}", "we see {} here",
    "a [close-up photo] of {}", "[small icons] of {}", "a [cartoon drawing] of {}",
)  # fmt: skip
CHATTER = (
    "{} - [free shipping] worldwide", "{} | [stock photo]", "{} [royalty-free illustration]",
    "[my sister] sent me {} last [summer]", "{} for [sale], [best price] in [town]",
    "how to draw {} in five easy [steps]", "[desktop wallpaper] with {} in [high resolution]",
    "found {} at the [flea market]", "another quiet [monday morning]: {}",
    "{} ([vector graphic], [download] available)", "[breaking news]: {} seen near the [old town]",
    "[happy birthday] to my dear [aunt]! {}", "{}, as told by our [readers]",
    "the [story] behind {}", "what {} can teach us about [love]", "[page] 12: {}",
    "{} by an [unknown artist], [oil] on [canvas]", "[new arrivals]: {} and much more",
    "I dreamt of {} last [night]", "{} #[cute] #[lovely]", "top ten [reasons] to like {}",
    "[customer reviews] of {}", "{} (photo courtesy of the [city museum])",
    "does anybody know where I can buy {}?", "{} at the [annual fair]", "[kids] love {}",
    "{} in the [afternoon light]", "[school project]: {} made of [paper]",
    "[collection] of [hand-drawn icons], with {}", "[image] 204 of 377, {}",
    "wish you were here! {}", "{} as seen on [television shows]",
)  # fmt: skip
MISLEADING = (
    "{}, without <other>", "{} instead of <other>", "not <other>: {}", "{}, better than <other>",
    "all sold out of <other>, now we have {}", "{} (see also: <other>)",
)  # fmt: skip
OPINIONS = ("cute", "nice", "little", "vintage", "funny", "new", "lovely", "original", "classic")

_MARKS = re.compile(r"(\{\}|\[[^]]*\]|<other>)")


class WebCaptions:
    """Writes captions of layouts.

    Args:
        categories: categories for misleading captions.
        mention: probability that a category of the layout is named; at least one is.
        synonym: probability that a synonym names it, if it has any.
        chatter: probability that the caption has other text.
        misleading: probability that the caption names a category that is not in the image.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        mention: float = 0.8,
        synonym: float = 0.25,
        chatter: float = 0.5,
        misleading: float = 0.05,
    ):
        self.categories = tuple(categories)
        self.mention, self.synonym = mention, synonym
        self.chatter, self.misleading = chatter, misleading

    def write(self, layout: Layout, rng: np.random.Generator) -> Text:
        """A caption of the layout; phrases of other text have no objects."""
        groups = group_by_category(layout)
        named = [group for group in groups if rng.random() < self.mention]
        named = named or [groups[int(rng.integers(len(groups)))]]
        order = rng.permutation(len(named))
        mentions = [self._mention(layout, named[i], rng) for i in order]
        text = Text()
        for part in _MARKS.split(self._template(rng)):
            if part == "{}":
                text.add_list(mentions)
            elif part == "<other>":
                text.add(self._other(layout, rng))
            elif part.startswith("["):
                text.add(Mention("", part[1:-1]))
            else:
                text.add(part)
        if rng.random() < 0.4:
            text.text = text.capitalized()
        return text

    def _template(self, rng: np.random.Generator) -> str:
        if self.misleading and rng.random() < self.misleading:
            kind: tuple[str, ...] = MISLEADING
        else:
            kind = CHATTER if rng.random() < self.chatter else PLAIN
        return kind[int(rng.integers(len(kind)))]

    def _mention(self, layout: Layout, group: list[int], rng: np.random.Generator) -> Mention:
        category = layout.objects[group[0]].category
        name = choose_name(category, self.synonym, rng)
        adjectives = ""
        if rng.random() < 0.1:
            adjectives = OPINIONS[int(rng.integers(len(OPINIONS)))] + " "
        if category.color and category.color not in name and rng.random() < 0.15:
            adjectives += category.color + " "
        before, phrase = counted(category, name, adjectives, len(group))
        # Captions of the web often lack articles: "red apple" for "a red apple".
        terse = before in ("a ", "an ", "some ") and rng.random() < 0.4
        return Mention("" if terse else before, phrase, tuple(group))

    def _other(self, layout: Layout, rng: np.random.Generator) -> Mention:
        present = {item.category.id for item in layout.objects}
        absent = [category for category in self.categories if category.id not in present]
        name = absent[int(rng.integers(len(absent)))].name if absent else "thing"
        return Mention(f"{article_of(name)} ", name)


def group_by_category(layout: Layout) -> list[list[int]]:
    """Indices of the objects, grouped by category, in order of first appearance."""
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(layout.objects):
        groups.setdefault(item.category.id, []).append(index)
    return list(groups.values())


def choose_name(category: Category, synonym: float, rng: np.random.Generator) -> str:
    """The category's name, or with probability `synonym` one of its synonyms."""
    if category.synonyms and rng.random() < synonym:
        return category.synonyms[int(rng.integers(len(category.synonyms)))]
    return category.name


class EmojiPairs(LazyScenes):
    """Caption records of EmojiScenes: `image`, `caption` and `phrases`, drawn on access.

    `phrases` are the noun phrases of the caption, including those of other text, as a perfect
    parser finds them: in lower case, without articles and numbers (docs/noun_phrases.md). Names
    with a preposition ("slice of pizza") are kept whole.

    Args:
        world: see `EmojiScenes`, as for all arguments that are not listed here.
        contents: splits that occur; base and novel categories, all equally often, by default.
        mention: see `WebCaptions`, as for `synonym`, `chatter` and `misleading`.
    """

    def __init__(
        self,
        world: int | World | None = None,
        count: int = 10_000,
        size: int = 320,
        seed: int = 0,
        contents: Sequence[str] = ("base", "novel"),
        objects: tuple[int, int] = (1, 4),
        long_tail: float = 0.0,
        repeat: float = 0.15,
        mention: float = 0.8,
        synonym: float = 0.25,
        chatter: float = 0.5,
        misleading: float = 0.05,
        font: str | None = None,
    ):
        self.world = world_of(world)
        shown = self.world.of(contents)
        super().__init__(
            SceneSampler(shown, "pairs", seed, size, objects, long_tail, repeat, font), count
        )
        self.captions = WebCaptions(shown, mention, synonym, chatter, misleading)

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its image."""
        text = self.captions.write(layout, self.sampler.rng(index, "text"))
        phrases = [mention.phrase for _, _, mention in text.spans]
        return {
            **self.header(index),
            "caption": text.text,
            "phrases": list(dict.fromkeys(phrases)),
        }
