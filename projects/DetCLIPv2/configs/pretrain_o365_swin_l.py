"""The paper's pre-training of Swin-L on Objects365 alone (Tab. 9), for 64 GPUs."""

from typing import Any

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .pretrain_o365_swin_t import (
    dataloader,
    images,
    inference,
    lr_multiplier,
    lvis,
    optimizer,
    pretraining,
    train,
)

model = get_config("models/detclipv2.py").swin_l


def for_64_gpus(dataloader: Any, images: Any, optimizer: Any, train: Any) -> None:
    """Give a pre-training of Swin-T the batch sizes and the learning rate of Swin-L (Tab. 9)."""
    for source in images:
        if source != "pairs":
            dataloader.train[source].total_batch_size = 256
    optimizer.lr = 4e-4
    train.update(schedule_of_epochs(images, dataloader.train, epochs=12))


for_64_gpus(dataloader, images, optimizer, train)
