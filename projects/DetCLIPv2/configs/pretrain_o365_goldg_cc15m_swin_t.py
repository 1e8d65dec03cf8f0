"""The paper's pre-training of DetCLIPv2-T: Objects365, GoldG and CC15M (Tab. 9), for 32 GPUs."""

from detclip2.engine.solver import schedule_of_epochs

from ....configs.data.pretraining import images, pairs
from .pretrain_o365_goldg_swin_t import (
    dataloader,
    inference,
    lr_multiplier,
    lvis,
    model,
    optimizer,
    pretraining,
    train,
)

dataloader.train.pairs = pairs
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
