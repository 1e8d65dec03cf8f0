"""The model of photographs that ships: photo_nano_all, then most stages of the backbone learn.

It starts from the weights of photo_nano_all.
"""

from detectron2.config import LazyCall as L

from detclip2.data.mappers.color_jitter import ColorJitter

from .photo_nano_all import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    photos,
    train,
)

model.backbone.bottom_up.frozen = ["conv_stem", *(f"blocks.{i}." for i in range(3))]
for source in (dataloader.train.detection, dataloader.train.regions):
    source.mapper.augmentations.append(L(ColorJitter)(strength=0.4))
del source  # it would be a key of the config
lr_multiplier.decay_start = 1200
train.update(init_checkpoint="output/photo_nano_all/model.safetensors", source_starts=None)
