"""GLIPv2 at its nano size on EmojiScenes, with L_intra and L_mlm, without L_inter.

A row of the comparison of losses, whose last one is emoji_glipv2_nano.
"""

from .emoji_glipv2_nano import dataloader, inference, lr_multiplier, model, optimizer, train, world

model.region_word_contrast = None
