"""EmojiScenes for configs: the names of a world, and its validation set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog

from detclip2.data.emojiscenes.categories import make_world, names_of
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.data.emojiscenes.validation import register_emoji_validation
from detclip2.utils.errors import UserError


def base_names(world: int | None = None) -> list[str]:
    """The names of the base categories, which are the only ones in detection data."""
    return names_of(make_world(world).base)


def seen_names(world: int | None = None) -> list[str]:
    """The names of the base categories, then of the novel ones: all in training data."""
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
    masks: bool = False,
) -> list[dict[str, Any]]:
    """Render the validation scenes into ``folder``, register them as ``name``, and load them.

    Args:
        name: name of the registered data set, for evaluators.
        folder: folder of the images and the LVIS json; complete ones are used again.
        world: number of base and novel categories; None for all.
        count: number of scenes.
        size: pixels of an edge.
        seed: seed of the world.
        objects: (least, most) objects of a scene.
        contents: "base", "novel" or both, or "unseen" alone; base and novel by default.
        artwork: folder of the emoji in another style, see `Artwork`.
        called: category -> the name that replaces its own.
        masks: whether the json has exact masks (RLE) in place of outlines, whose holes are filled.

    Raises:
        UserError: `called` has a category that the world does not have.
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
        masks=masks,
    )
    if called:
        rename(scenes, called)
    register_emoji_validation(name, scenes, folder)
    return DatasetCatalog.get(name)


def rename(scenes: EmojiScenes, called: Mapping[str, str]) -> None:
    """Give categories of `scenes` other names; images do not change.

    Raises:
        UserError: `called` has a category that `scenes` do not have.
    """
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
