"""The paper's pre-training of Swin-L on Objects365 and GoldG (Tab. 9), for 64 GPUs."""

from .pretrain_o365_goldg_swin_t import (
    dataloader,
    images,
    inference,
    lr_multiplier,
    lvis,
    optimizer,
    pretraining,
    train,
)
from .pretrain_o365_swin_l import for_64_gpus, model

for_64_gpus(dataloader, images, optimizer, train)
