"""The nano model on EmojiScenes, from boxes alone."""

from detclip2 import get_config

dataloader, inference, world = get_config("data/emoji.py", ("dataloader", "inference", "world"))
model = get_config("models/detclipv2.py").nano
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

# Image-text pairs are smaller than scenes with boxes, as in the paper (sec. 4.1: 320, 1333).
world.update(size=160, pairs_size=128)
optimizer.lr = 1e-3
lr_multiplier.warmup_iterations = 200
train.update(max_iter=1600)
