"""EmojiScenes as a config names it: the names of a world, and its validation set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

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
            (:class:`~detclip2.data.sources.emoji.artwork.Artwork`).
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
    register_emoji_validation(name, scenes, folder)
    return DatasetCatalog.get(name)
