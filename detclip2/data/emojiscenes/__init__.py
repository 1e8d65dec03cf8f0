"""EmojiScenes: the world that the project learns in, drawn on the fly from one colour font."""

from .captions import EmojiPairs
from .categories import Category, World, all_categories, make_world
from .grounding import EmojiGrounding
from .scenes import EmojiScenes
from .validation import register_emoji_scenes, register_emoji_validation, render_validation
from .writers import write_caption_shards, write_grounding_json

__all__ = [
    "Category",
    "EmojiGrounding",
    "EmojiPairs",
    "EmojiScenes",
    "World",
    "all_categories",
    "make_world",
    "register_emoji_scenes",
    "register_emoji_validation",
    "render_validation",
    "write_caption_shards",
    "write_grounding_json",
]
