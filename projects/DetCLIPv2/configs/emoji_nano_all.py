"""The nano model on EmojiScenes, from all three kinds of data."""

from ....configs.data.emoji import grounding, pairs
from .emoji_nano_detection import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

dataloader.train.update(grounding=grounding, pairs=pairs)
train.update(source_ratios=dict(detection=1, grounding=1, pairs=1), max_iter=9000)
