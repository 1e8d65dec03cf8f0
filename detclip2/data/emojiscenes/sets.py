"""EmojiScenes as a config names it: the names of a world, and its validation set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from detclip2.utils.errors import UserError

from .categories import make_world, names_of
from .scenes import EmojiScenes
from .validation import register_emoji_validation


def base_names(world: int | None = None) -> list[str]:
    """What a detector of the world may hear of in detection data: the base categories alone."""
    return names_of(make_world(world).base)


def seen_names(world: int | None = None) -> list[str]:
    """All that the training data of a world names: base categories, then novel ones."""
    return names_of(make_world(world).seen)


def validation_set(
    name: str,
    folder: str | Path,
    world: int | None = None,
    count: int = 500,
    size: int = 320,
    seed: int = 0,
    objects: tuple[int, int] = (1, 8),
    contents: Sequence[str] | None = None,
    artwork: str | None = None,
    called: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Render the validation scenes into ``folder``, register them as ``name``, and load them.

    Args:
        name: of the registered data set, for evaluators.
        folder: where the pictures and the LVIS json go; taken as they are when complete.
        world: how many categories, base and novel; None for all.
        count: scenes.
        size: pixels of an edge.
        seed: of the world.
        objects: least and most objects of a scene.
        contents: any of "base", "novel", "unseen", the last alone; base and novel by default.
        artwork: a folder with the emoji in another style
            (:class:`~detclip2.data.emojiscenes.artwork.Artwork`).
        called: category -> the name that is asked for in place of its own, which stays for others.

    Raises:
        UserError: `called` names what is not in the world.
    """
    scenes = EmojiScenes(
        world,
        "val",
        count=count,
        size=size,
        seed=seed,
        contents=contents,
        objects=objects,
        artwork=artwork,
    )
    if called:
        rename(scenes, called)
    register_emoji_validation(name, scenes, folder)
    return DatasetCatalog.get(name)


def rename(scenes: EmojiScenes, called: Mapping[str, str]) -> None:
    """Give categories of `scenes` other names; what is drawn stays."""
    unknown = called.keys() - set(scenes.class_names)
    if unknown:
        raise UserError(
            f"called: {', '.join(sorted(unknown))} are not categories of this world; it has "
            f"{', '.join(scenes.class_names)}"
        )
    scenes.vocabulary = tuple(
        replace(category, name=called.get(category.name, category.name), synonyms=())
        for category in scenes.vocabulary
    )
