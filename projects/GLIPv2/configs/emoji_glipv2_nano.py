"""GLIPv2 at its nano size on EmojiScenes: L_intra, L_inter and L_mlm, from boxes and captions.

The data are those of emoji_glip_nano. Beside detection, two test sets have captions: one measures
the boxes of their phrases, the other words that are masked in them.
"""

from detclip2 import get_config

from .emoji_glip_nano import dataloader, inference, lr_multiplier, optimizer, train, world

phrases, words = get_config("data/emoji_captions.py", ("phrases", "words"))

model = get_config("models/glipv2.py").nano
# L_mlm would mask the names of absent things, too.
dataloader.train.grounding.mapper.negatives = None
dataloader.tests = dict(phrases=phrases, words=words)
