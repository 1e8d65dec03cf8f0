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
# The paper has 0.5 and 0.1 (Tab. 2e, 2f), with 6144 captions a batch. Among 32 the right image is
# soon found by the names that have boxes, and the others learn nothing: a flatter softmax and a
# larger weight keep the lesson going.
model.contrast.update(temperature=2.0, weight=0.5)
# From random weights, pairs teach nothing before boxes have taught regions to differ: they begin
# after 800 iterations. In all, 2000 are of boxes, as in emoji_nano_detection, and 1200 of pairs.
train.update(source_ratios=dict(detection=1, pairs=1), source_starts=dict(pairs=800), max_iter=3200)
