"""GLIP-T (C): pre-training on Objects365 and GoldG, for 32 GPUs."""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .pretrain_o365_glip_b import (
    dataloader,
    inference,
    lr_multiplier,
    lvis,
    model,
    optimizer,
    pretraining,
    train,
)

flickr, images, mixed = get_config("data/glip.py", ("flickr", "images", "mixed"))

dataloader.train.update(flickr=flickr, mixed=mixed)
del images["web"]
train.update(schedule_of_epochs(images, dataloader.train, epochs=30))
