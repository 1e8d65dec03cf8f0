"""The nano model on photographs, from boxes and image-text pairs: captions and names."""

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

captions, named = get_config("data/photographs.py", ("captions", "named"))

dataloader.train.update(captions=captions, named=named)
train.update(
    source_ratios=dict(detection=8, captions=1, named=1),
    source_starts=dict(captions=1000, named=1000),
)
