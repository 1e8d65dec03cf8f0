"""AdamW with the paper's values (Tab. 9)."""

from copy import deepcopy

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params

from detclip2.engine.solver import BiasFactor, Factors, LayerDecay, TextTowerFactor

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

# Not in the paper: layer-wise decay of the learning rate, for fine-tuning a pretrained Swin.
AdamW_layer_decay = deepcopy(AdamW)
AdamW_layer_decay.params.lr_factor_func = L(Factors)(
    functions=[
        L(TextTowerFactor)(factor=0.1),
        L(LayerDecay)(decay=0.8, depths=[2, 2, 6, 2]),  # Swin-L: [2, 2, 18, 2]
    ]
)

# Of GLIP: biases, in its broad sense, learn at twice the rate and do not decay; norms do.
AdamW_glip = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        lr_factor_func=L(Factors)(
            functions=[L(TextTowerFactor)(factor=0.1), L(BiasFactor)(factor=2.0)]
        ),
        overrides={
            name: {"weight_decay": 0.0}
            for name in ("bias", "in_proj_bias", "text_bias", "relative_position_bias_table")
        },
    ),
    lr=1e-4,
    weight_decay=1e-4,  # GLIP-L: 0.01
)
