"""Swin-T on EmojiScenes, from boxes alone; its text tower comes from a CLIP folder."""

from ....configs.data.emoji import dataloader, inference, world
from ....configs.models.detclipv2 import swin_t as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

optimizer.lr = 2.8e-4  # Tab. 9
train.max_iter = 20000
