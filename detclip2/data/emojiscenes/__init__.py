"""EmojiScenes: synthetic data for all kinds of supervision, drawn from a colour font."""

from detclip2.data.emojiscenes.captioning import EmojiCaptioning
from detclip2.data.emojiscenes.captions import EmojiPairs
from detclip2.data.emojiscenes.categories import Category, World, all_categories, make_world
from detclip2.data.emojiscenes.grounding import EmojiGrounding
from detclip2.data.emojiscenes.questions import EmojiQuestions
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.data.emojiscenes.validation import (
    register_emoji_scenes,
    register_emoji_validation,
    render_validation,
)
from detclip2.data.emojiscenes.writers import write_caption_shards, write_grounding_json

__all__ = [
    "Category",
    "EmojiCaptioning",
    "EmojiGrounding",
    "EmojiPairs",
    "EmojiQuestions",
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
