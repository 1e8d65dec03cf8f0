"""The paper's pre-training of Swin-T on Objects365, GoldG and CC3M (Tab. 4), for 32 GPUs."""

from detclip2 import get_config

from .pretrain_o365_cc3m_swin_t import add_cc3m
from .pretrain_o365_goldg_swin_t import (
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

add_cc3m(dataloader, images, train, get_config("data/pretraining.py", "cc3m"))
