"""EmojiScenes: the world that the project learns in, drawn on the fly from one colour font."""

from .categories import Category, World, all_categories, make_world
from .scenes import EmojiScenes
from .validation import register_emoji_scenes, register_emoji_validation, render_validation

__all__ = [
    "Category",
    "EmojiScenes",
    "World",
    "all_categories",
    "make_world",
    "register_emoji_scenes",
    "register_emoji_validation",
    "render_validation",
]
