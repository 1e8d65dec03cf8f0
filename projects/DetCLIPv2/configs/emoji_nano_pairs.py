"""The nano model on EmojiScenes, from boxes and image-text pairs."""

from ....configs.data.emoji import pairs
from .emoji_nano_detection import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

dataloader.train.pairs = pairs
# The paper has 0.1 (Tab. 2f), with 6144 captions a batch. Among 32 the right image is soon found by
# the names that have boxes; a larger weight keeps the lesson going for the others.
model.contrast.weight = 1.0
# From random weights, pairs teach nothing before boxes have taught regions to differ: they begin
# after 800 iterations. In all, 2000 are of boxes, as in emoji_nano_detection, and 1500 of pairs.
train.update(source_ratios=dict(detection=4, pairs=5), source_starts=dict(pairs=800), max_iter=3500)
