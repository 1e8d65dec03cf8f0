"""The nano model on EmojiScenes, from boxes and grounded captions."""

from detclip2 import get_config

from .emoji_nano_detection import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

grounding = get_config("data/emoji.py").grounding

dataloader.train.grounding = grounding
train.update(
    source_ratios=dict(detection=4, grounding=5), source_starts=dict(grounding=800), max_iter=3500
)
