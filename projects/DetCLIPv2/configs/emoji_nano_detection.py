"""The nano model on EmojiScenes, from boxes alone."""

from ....configs.data.emoji import dataloader, inference, world
from ....configs.models.detclipv2 import nano as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

# Pairs come smaller than scenes with boxes, as in the paper (sec. 4.1: 320 against 1333).
world.update(size=160, pairs_size=128)
optimizer.lr = 1e-3
lr_multiplier.warmup_iterations = 200
train.update(max_iter=1600, device="cpu")
