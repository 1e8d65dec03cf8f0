"""The paper's fine-tuning of Swin-L on LVIS: 24 epochs (Tab. 10), for 16 GPUs."""

from detclip2 import get_config

from .lvis_swin_t_finetune import (
    dataloader,
    images,
    inference,
    lr_multiplier,
    lvis,
    optimizer,
    pretraining,
    train,
)
from .lvis_swin_t_zero_shot import model as _zero_shot

model = get_config("models/detclipv2.py").swin_l

model.postprocess = _zero_shot.postprocess
