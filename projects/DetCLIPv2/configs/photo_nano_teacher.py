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

located, regions = get_config("data/photographs.py", ("located", "regions"))

dataloader.train.update(regions=regions, located=located)
train.update(source_ratios=dict(detection=8, regions=2, located=2))
