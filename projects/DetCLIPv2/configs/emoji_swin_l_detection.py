"""Swin-L on EmojiScenes, from boxes alone; its text tower comes from a CLIP folder."""

from detclip2 import get_config

from .emoji_swin_t_detection import dataloader, inference, lr_multiplier, optimizer, train, world

model = get_config("models/detclipv2.py").swin_l

optimizer.lr = 4e-4  # Tab. 9
