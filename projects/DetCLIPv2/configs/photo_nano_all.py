"""The nano model on photographs, from boxes, captions and located names.

The first part of the training of photo_nano, see there.
"""

from detclip2 import get_config

from .photo_nano_teacher import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    photos,
    train,
)

dataloader.train.captions = get_config("data/photographs.py").captions
train.update(
    source_ratios=dict(detection=8, regions=2, located=2, captions=1),
    source_starts=dict(captions=1000),
)
