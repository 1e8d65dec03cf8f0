"""The paper's pre-training of DetCLIPv2-L: Objects365, GoldG and CC15M (Tab. 9), for 64 GPUs."""

from .pretrain_o365_goldg_cc15m_swin_t import (
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
