"""Captions of EmojiScenes that name every object: targets for a model that writes captions."""

from collections.abc import Sequence
from typing import Any

from detclip2.data.emojiscenes.captions import group_by_category
from detclip2.data.emojiscenes.categories import World, world_of
from detclip2.data.emojiscenes.layout import Layout
from detclip2.data.emojiscenes.naming import Mention, Text, counted, plural_of
from detclip2.data.emojiscenes.scenes import BaseCategoryScenes

SENTENCES = ("a picture of {}", "there is {}", "this picture shows {}")


def complete_caption(layout: Layout, sentence: str) -> Text:
    """A sentence with all objects of a layout, counted; those that cover most come first.

    Args:
        layout: with at least one object.
        sentence: has {} where the list of objects goes.
    """
    groups = group_by_category(layout)
    groups.sort(key=lambda group: -sum(layout.objects[i].area for i in group))
    mentions = []
    for group in groups:
        category = layout.objects[group[0]].category
        before, phrase = counted(category, category.name, "", len(group))
        mentions.append(Mention(before, phrase, tuple(group)))
    before, _, after = sentence.partition("{}")
    return Text().add(before).add_list(mentions).add(after)


class EmojiCaptioning(BaseCategoryScenes):
    """Records of EmojiScenes with `captions` that name every object, and the `names` of these.

    Each of `SENTENCES` gives a caption, as several people would describe one image. See
    `BaseCategoryScenes` for the arguments.
    """

    stream = "captioning"

    def describe(self, index: int, layout: Layout) -> dict[str, Any]:
        """The record without its image."""
        names = dict.fromkeys(item.category.name for item in layout.objects)
        captions = [complete_caption(layout, sentence).text for sentence in SENTENCES]
        return {**self.header(index), "captions": captions, "names": list(names)}


def spellings_of_names(world: int | World | None = None) -> dict[str, list[str]]:
    """Name of each base category -> how captions may write it: synonyms and plurals too."""
    base = world_of(world).base
    return {category.name: _spellings([category.name, *category.synonyms]) for category in base}


def _spellings(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*names, *map(plural_of, names)]))
