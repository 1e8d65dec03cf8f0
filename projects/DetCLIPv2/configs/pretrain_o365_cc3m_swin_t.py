"""The paper's pre-training of Swin-T on Objects365 and CC3M (Tab. 4), for 32 GPUs.

Noun phrases are extracted ahead: docs/noun_phrases.md.
"""

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

cc3m_phrases, images_of_cc3m = get_config("data/pretraining.py", ("cc3m_phrases", "images_of_cc3m"))

dataloader.train.pairs = cc3m_phrases
images.pairs = images_of_cc3m
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
