"""Evaluates GLIP's nano size on captions of EmojiScenes, read whole: for --eval-only.

They refer to one of two objects. The scenes have another seed than those of training. DetCLIPv2 on
the same ones: emoji_nano_phrases with the arguments below as overrides.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.emojiscenes import EmojiGrounding

from .emoji_glip_nano import inference, model, train, world

dataloader = get_config("data/flickr30k_entities.py").dataloader

dataloader.test.dataset.update(
    name="emoji_phrases",
    records=L(EmojiGrounding)(
        world="${world.categories}",
        count=500,
        size="${world.size}",
        seed=1_000_000,
        referring=1.0,
    ),
)
dataloader.test.update(num_workers=0, batch_size=8)
dataloader.test.mapper.whole_captions = True
dataloader.evaluator.whole_captions = True
