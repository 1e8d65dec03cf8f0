"""The nano model on photographs, from boxes and names that a teacher has located."""

from detclip2 import get_config

from .photo_nano_boxes import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    photos,
    train,
)

regions = get_config("data/photographs.py").regions

dataloader.train.regions = regions
train.update(source_ratios=dict(detection=8, regions=2), max_iter=4000)
