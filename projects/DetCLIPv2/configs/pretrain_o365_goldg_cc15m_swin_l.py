"""The paper's pre-training of DetCLIPv2-L: Objects365, GoldG and CC15M (Tab. 9), for 64 GPUs."""

from detclip2.engine.solver import schedule_of_epochs

from ....configs.models.detclipv2 import swin_l as model
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

for _source in images:
    if _source != "pairs":
        dataloader.train[_source].total_batch_size = 256
optimizer.lr = 4e-4
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
