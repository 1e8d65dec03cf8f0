"""AdamW with the paper's values (Tab. 9)."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from detclip2.engine.optim import TextTowerFactor

AdamW = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        # `params.model` is set by the training script, to the model it has built.
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        # The text tower learns at a tenth of the rate (sec. 4.1).
        lr_factor_func=L(TextTowerFactor)(factor=0.1),
    ),
    lr=2.8e-4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
)
