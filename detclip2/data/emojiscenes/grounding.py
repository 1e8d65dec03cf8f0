"""Grounding data of EmojiScenes: captions with attributes and relations, and boxes of phrases."""

from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from detclip2.data.emojiscenes.captions import choose_name, group_by_category
from detclip2.data.emojiscenes.categories import World, world_of
from detclip2.data.emojiscenes.layout import Layout, PlacedObject
from detclip2.data.emojiscenes.naming import Mention, Text, counted
from detclip2.data.emojiscenes.scenes import LazyScenes, SceneSampler

# Fractions of the scene's side: limits of "small" and "large", and the least offset of a relation.
SMALL, LARGE, APART = 0.14, 0.32, 0.15
# The least ratio of sizes by which a phrase distinguishes two objects.
CONTRAST = 1.6

# Objects of other categories in a scene with twins.
MOST_BESIDE_TWINS = 2

# Relation of an object to another one of its category -> the words that mean this one.
SIDES = {
    "to the left of": "on the left",
    "to the right of": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
SENTENCES = ("{}", "{}", "there is {}", "a picture of {}", "{} in this picture", "we see {}", "{}.")


class SceneSentences:
    """Writes captions that are true of a layout, with the objects of each noun phrase.

    A phrase means all objects that it fits: "two dogs", or "the small dog" and "the large dog" if
    two differ in size. In a referring caption the words around a phrase tell which of two dogs it
    means: "the dog to the left of the cat", "the dog on the left". The phrase is "dog", so a model
    that encodes phrases apart cannot know.

    Args:
        size: pixels of the scene's edge.
        synonym: probability that a synonym names a category, if it has any.
    """

    def __init__(self, size: int, synonym: float = 0.2):
        self.size, self.synonym = size, synonym

    def write(self, layout: Layout, rng: np.random.Generator) -> Text:
        """A caption with at most four phrases of the layout."""
        things = [
            mention
            for group in group_by_category(layout)
            for mention in self._mentions(layout, group, rng)
        ]
        things = [things[i] for i in rng.permutation(len(things))][: int(rng.integers(1, 5))]
        text = Text()
        before, _, after = SENTENCES[int(rng.integers(len(SENTENCES)))].partition("{}")
        text.add(before)
        related = False
        for place, thing in enumerate(things):
            relation = self._relation(layout, things[place - 1], thing) if place else None
            # Relations never follow each other: "a above b below c" is ambiguous.
            related = relation is not None and not related
            if place:
                comma = " and " if place == len(things) - 1 else ", "
                text.add(f" {relation} " if related else comma)
            text.add(thing)
        text.add(after)
        if rng.random() < 0.5:
            text.text = text.capitalized()
        return text

    def _mentions(
        self, layout: Layout, group: list[int], rng: np.random.Generator
    ) -> list[Mention]:
        """One phrase for all objects of a category, or one for the small and one for the large."""
        category = layout.objects[group[0]].category
        name = choose_name(category, self.synonym, rng)
        color = ""
        if category.color and category.color not in name and rng.random() < 0.4:
            color = f"{category.color} "
        extents = [extent_of(layout.objects[i]) for i in group]
        if len(group) == 2 and max(extents) > CONTRAST * min(extents):
            small, large = sorted(group, key=lambda i: extent_of(layout.objects[i]))
            return [
                Mention("the ", f"{word} {color}{name}", (index,))
                for word, index in (("small", small), ("large", large))
            ]
        sized = ""
        if rng.random() < 0.6:
            if max(extents) < SMALL * self.size:
                sized = "small "
            elif min(extents) > LARGE * self.size:
                sized = "large "
        before, phrase = counted(category, name, sized + color, len(group))
        return [Mention(before, phrase, tuple(group))]

    def _relation(self, layout: Layout, first: Mention, second: Mention) -> str | None:
        """The first's place relative to the second; None if unclear or either is not one object."""
        if not len(first.objects) == len(second.objects) == 1:
            return None
        return place_of(layout, first.objects[0], second.objects[0])

    def refer(self, layout: Layout, rng: np.random.Generator) -> Text:
        """A caption of one object, which tells it from its twin: one of `references_of`."""
        references = references_of(layout)
        target, words, anchor = references[int(rng.integers(len(references)))]
        before, _, after = SENTENCES[int(rng.integers(len(SENTENCES)))].partition("{}")
        text = Text().add(before)
        text.add(self._single(layout, target, rng)).add(f" {words}")
        if anchor is not None:
            text.add(" ").add(self._single(layout, anchor, rng))
        return text.add(after)

    def _single(self, layout: Layout, index: int, rng: np.random.Generator) -> Mention:
        name = choose_name(layout.objects[index].category, self.synonym, rng)
        return Mention("the ", name, (index,))


def references_of(layout: Layout) -> list[tuple[int, str, int | None]]:
    """Each (object, words, other object) that means one of two objects of a category, the twins.

    The words place it beside an object of another category, which its twin has elsewhere, or beside
    the twin itself.
    """
    groups = group_by_category(layout)
    alone = [group[0] for group in groups if len(group) == 1]
    found: list[tuple[int, str, int | None]] = []
    for one, other in (group for group in groups if len(group) == 2):
        for target, twin in ((one, other), (other, one)):
            if side := place_of(layout, target, twin):
                found.append((target, SIDES[side], None))
            for anchor in alone:
                place, elsewhere = (place_of(layout, i, anchor) for i in (target, twin))
                if place and elsewhere and place != elsewhere:
                    found.append((target, place, anchor))
    return found


def place_of(layout: Layout, first: int, second: int) -> str | None:
    """An object's place relative to another one, a key of `SIDES`; None if it is unclear."""
    a, b = layout.objects[first], layout.objects[second]
    x, y = np.subtract(a.center, b.center) / len(layout.owner)
    if abs(x) > APART and abs(x) > 2 * abs(y):
        return "to the left of" if x < 0 else "to the right of"
    if abs(y) > APART and abs(y) > 2 * abs(x):
        return "above" if y < 0 else "below"
    return None


def extent_of(item: PlacedObject) -> int:
    """The longer side of an object's box, px."""
    left, top, right, bottom = item.box
    return max(right - left, bottom - top)


class EmojiGrounding(LazyScenes):
    """Grounding records of EmojiScenes: detection records whose boxes belong to phrases.

    A record has `caption`, and each annotation has `phrases` (the phrases that it belongs to) and
    `tokens_positive` (their spans [begin, end) of characters in the caption). Objects that the
    caption does not name have no annotation. Only base categories occur, since novel ones have no
    boxes. See `EmojiScenes` for the arguments that are not listed here, and `SceneSentences`.

    Args:
        referring: the part of the scenes that have twins, two objects of a category, and a caption
            that tells which of both it means.
    """

    def __init__(
        self,
        world: int | World | None = None,
        count: int = 10_000,
        size: int = 320,
        seed: int = 0,
        objects: tuple[int, int] = (1, 6),
        long_tail: float = 0.5,
        repeat: float = 0.25,
        synonym: float = 0.2,
        referring: float = 0.0,
        font: str | None = None,
        masks: bool = False,
    ):
        self.masks = masks
        self.world = world_of(world)
        super().__init__(
            SceneSampler(
                self.world.base, "grounding", seed, size, objects, long_tail, repeat, font
            ),
            count,
        )
        self.sentences = SceneSentences(size, synonym)
        self.referring = referring

    def layout(self, index: int) -> Layout:
        """The layout of scene `index`, with at least one object, and with twins if it refers."""
        if not self._refers(index):
            return super().layout(index)
        rng = self.sampler.rng(index, "twins")
        first, *others = dict.fromkeys(self.sampler.contents(index, rng))
        while True:  # until the twins have places that words can distinguish
            contents = [first, first, *others[:MOST_BESIDE_TWINS]]
            layout = self.sampler.arrange(
                [contents[i] for i in rng.permutation(len(contents))], rng
            )
            if references_of(layout):
                return layout

    def _refers(self, index: int) -> bool:
        return self.sampler.rng(index, "referring").random() < self.referring

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its image."""
        rng = self.sampler.rng(index, "text")
        write = self.sentences.refer if self._refers(index) else self.sentences.write
        text = write(layout, rng)
        annotations = []
        for number, item in enumerate(layout.objects):
            mine = [span for span in text.spans if number in span[2].objects]
            if mine:
                annotations.append(
                    {
                        "bbox": [float(edge) for edge in item.box],
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "iscrowd": 0,
                        "area": float(item.area),
                        **self.mask_of(layout, number),
                        "phrases": [mention.phrase for _, _, mention in mine],
                        "tokens_positive": [[start, end] for start, end, _ in mine],
                    }
                )
        return {**self.header(index), "caption": text.text, "annotations": annotations}
