"""The paper's pre-training of DetCLIPv2-T: Objects365, GoldG and CC15M (Tab. 9), for 32 GPUs."""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

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

images, pairs = get_config("data/pretraining.py", ("images", "pairs"))

dataloader.train.pairs = pairs
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
