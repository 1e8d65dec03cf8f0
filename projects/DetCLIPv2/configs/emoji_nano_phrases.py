"""Evaluates a nano model on phrases of EmojiScenes: phrase grounding, for --eval-only.

The scenes have another seed than those of training, and base categories alone.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.emojiscenes import EmojiGrounding

from .emoji_nano_grounding import inference, model, train, world

dataloader, postprocess = get_config("data/flickr30k_entities.py", ("dataloader", "postprocess"))

dataloader.test.dataset.update(
    name="emoji_phrases",
    records=L(EmojiGrounding)(
        world="${world.categories}", count=500, size="${world.size}", seed=1_000_000
    ),
)
dataloader.test.update(num_workers=0, batch_size=8)
model.postprocess = postprocess
