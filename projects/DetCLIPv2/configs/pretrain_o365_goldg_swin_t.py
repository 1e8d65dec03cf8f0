"""The paper's pre-training of Swin-T on Objects365 and GoldG (Tab. 9), for 32 GPUs."""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .pretrain_o365_swin_t import (
    dataloader,
    inference,
    lr_multiplier,
    lvis,
    model,
    optimizer,
    pretraining,
    train,
)

flickr, images, mixed = get_config("data/pretraining.py", ("flickr", "images", "mixed"))

dataloader.train.update(flickr=flickr, mixed=mixed)
del images["pairs"]
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
