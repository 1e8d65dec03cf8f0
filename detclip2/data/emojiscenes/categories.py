"""The categories of EmojiScenes, and worlds: fixed subsets of them, nested by size."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from detclip2.utils.errors import UserError


@dataclass(frozen=True)
class Category:
    """A category of objects in scenes.

    `split` is "base" (with boxes), "novel" (in captions only, without boxes) or "unseen" (in no
    training data). `frequency` is LVIS's letter: f and c for base, r for the others, so that LVIS's
    APr is the AP of novel categories. `number` is the grammatical number: "singular", "plural"
    (such as *scissors*) or "mass" (such as *popcorn*). `color` names its main colour, or is None.
    """

    id: int
    name: str
    synonyms: tuple[str, ...]
    emoji: str
    group: str
    split: str
    frequency: str
    number: str
    color: str | None


@functools.cache
def all_categories() -> tuple[Category, ...]:
    """All categories, in the fixed order of the worlds."""
    text = files("detclip2.resources").joinpath("emoji_categories.json").read_text("utf-8")
    return tuple(
        Category(**{**entry, "synonyms": tuple(entry["synonyms"])})
        for entry in json.loads(text)["categories"]
    )


@dataclass(frozen=True)
class World:
    """A subset of the categories: lists in fixed order, most familiar first.

    `seen` categories, base and then novel, are the classes of a detector. `unseen` categories,
    which no training data names, are the vocabulary of another evaluation.
    """

    base: tuple[Category, ...]
    novel: tuple[Category, ...]
    unseen: tuple[Category, ...]

    @property
    def seen(self) -> tuple[Category, ...]:
        """The classes of a detector: base, then novel."""
        return self.base + self.novel

    def of(self, splits: Sequence[str]) -> tuple[Category, ...]:
        """The categories of some splits, in the order given; UserError for an unknown split."""
        if unknown := set(splits) - {"base", "novel", "unseen"}:
            raise UserError(
                f"contents of EmojiScenes: {sorted(unknown)}, expected 'base', 'novel' or 'unseen'"
            )
        return tuple(category for split in splits for category in getattr(self, split))

    def __len__(self) -> int:
        return len(self.base) + len(self.novel)


def make_world(size: int | None = None) -> World:
    """The world of `size` seen categories: four fifths base, one fifth novel, and size / 10 unseen.

    Every larger world contains it. None gives the largest world.

    Raises:
        UserError: there are not so many categories.
    """
    parts = {
        split: tuple(category for category in all_categories() if category.split == split)
        for split in ("base", "novel", "unseen")
    }
    largest = World(**parts)
    if size is None:
        return largest
    num_base = round(0.8 * size)
    num_novel = size - num_base
    if num_base < 1 or num_base > len(largest.base) or num_novel > len(largest.novel):
        raise UserError(f"a world of {size} categories: expected 1 to {_largest_size(largest)}")
    return World(
        largest.base[:num_base], largest.novel[:num_novel], largest.unseen[: max(1, size // 10)]
    )


def world_of(world: int | World | None) -> World:
    """A world, or that of so many seen categories, see `make_world`."""
    return world if isinstance(world, World) else make_world(world)


def _largest_size(world: World) -> int:
    return min(int(len(world.base) / 0.8), 5 * len(world.novel))


def names_of(categories: Sequence[Category]) -> list[str]:
    """The names of categories, in order."""
    return [category.name for category in categories]
