"""GLIP-T (A): pre-training on Objects365 without fusion, for 32 GPUs."""

from .pretrain_o365_glip_b import (
    dataloader,
    images,
    inference,
    lr_multiplier,
    lvis,
    model,
    optimizer,
    pretraining,
    train,
)

model.head.fuse = False
