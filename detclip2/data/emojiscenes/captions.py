"""Image-text pairs of EmojiScenes: pictures with captions as the web has them.

A caption names some of the objects, by any of their names, and says other things too. It has no
box. Novel categories occur here and nowhere else in training.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .categories import Category, World, make_world
from .layout import Layout
from .naming import Mention, Text, article_of, counted
from .scenes import LazyScenes, SceneSampler

# `{}` is the list of what is named; [brackets] are noun phrases of the talk around it; <other>
# names a thing that is not in the picture.
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
    """Writes captions of layouts. All shares are probabilities:

    - mention: that an object (with all others of its category) is named; one always is.
    - synonym: that it is named by a synonym, where it has one.
    - chatter: that the caption says other things too.
    - misleading: that it names a thing that is not there.
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
        """A caption of the layout; phrases of the talk around have no objects."""
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
        # The web is terse: "red apple" as often as "a red apple".
        terse = before in ("a ", "an ", "some ") and rng.random() < 0.4
        return Mention("" if terse else before, phrase, tuple(group))

    def _other(self, layout: Layout, rng: np.random.Generator) -> Mention:
        present = {item.category.id for item in layout.objects}
        absent = [category for category in self.categories if category.id not in present]
        name = absent[int(rng.integers(len(absent)))].name if absent else "thing"
        return Mention(f"{article_of(name)} ", name)


def group_by_category(layout: Layout) -> list[list[int]]:
    """Indices of the objects, those of one category together, in order of first appearance."""
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
    """Caption records of EmojiScenes: `image`, `caption` and `phrases`, drawn when asked for.

    `phrases` are the caption's noun phrases as a perfect parser gives them, in lower case and
    without articles and numbers (docs/noun_phrases.md), but for names with a preposition ("slice of
    pizza"), which are kept whole. They hold the talk around the objects too.

    - contents: what occurs; base and novel categories, all equally often, by default.
    - mention, synonym, chatter, misleading: see :class:`WebCaptions`.
    - the rest: see :class:`EmojiScenes`.
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
        self.world = world if isinstance(world, World) else make_world(world)
        shown = self.world.of(contents)
        super().__init__(
            SceneSampler(shown, "pairs", seed, size, objects, long_tail, repeat, font), count
        )
        self.captions = WebCaptions(shown, mention, synonym, chatter, misleading)

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its picture."""
        text = self.captions.write(layout, self.sampler.text_rng(index))
        phrases = [mention.phrase for _, _, mention in text.spans]
        return {
            **self.header(index),
            "caption": text.text,
            "phrases": list(dict.fromkeys(phrases)),
        }
