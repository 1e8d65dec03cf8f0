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
train.update(source_ratios=dict(detection=1, pairs=1), max_iter=6000)
