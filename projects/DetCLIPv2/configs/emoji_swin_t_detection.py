"""Swin-T on EmojiScenes, from boxes alone; its text tower comes from a CLIP folder."""

from detclip2 import get_config

dataloader, inference, world = get_config("data/emoji.py", ("dataloader", "inference", "world"))
model = get_config("models/detclipv2.py").swin_t
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

optimizer.lr = 2.8e-4  # Tab. 9
train.max_iter = 20000
