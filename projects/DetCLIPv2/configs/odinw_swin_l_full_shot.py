"""The paper's fine-tuning of Swin-L on a set of ODinW-13 (Tab. 11), for 8 GPUs, with prompts.

From the weights of a pre-training, set by set: ``odinw.name=Aquarium train.init_checkpoint=FILE``.
"""

from detclip2 import get_config

from .odinw_swin_t_full_shot import dataloader, inference, lr_multiplier, odinw, optimizer, train

model = get_config("models/detclipv2.py").swin_l
