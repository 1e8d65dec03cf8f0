"""EmojiScenes: the world that the project learns in, drawn on the fly from one colour font."""

from .categories import Category, World, all_categories, make_world
from .scenes import EmojiScenes

__all__ = ["Category", "EmojiScenes", "World", "all_categories", "make_world"]
