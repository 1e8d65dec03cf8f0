"""The paper's pre-training of Swin-T on Objects365 and CC3M (Tab. 4), for 32 GPUs."""

from typing import Any

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .pretrain_o365_swin_t import (
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

cc3m, images_of_cc3m = get_config("data/pretraining.py", ("cc3m", "images_of_cc3m"))


def add_cc3m(dataloader: Any, images: Any, train: Any, pairs: Any) -> None:
    """Give a pre-training the pairs of CC3M, and the length of 12 epochs with them."""
    dataloader.train.pairs = pairs
    images.pairs = images_of_cc3m
    train.update(schedule_of_epochs(images, dataloader.train, epochs=12))


add_cc3m(dataloader, images, train, cc3m)
