"""The nano model on EmojiScenes, from boxes alone."""

from ....configs.data.emoji import dataloader, inference, world
from ....configs.models.detclipv2 import nano as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

optimizer.lr = 2e-3
lr_multiplier.warmup_iterations = 200
train.update(max_iter=3000, device="cpu")
