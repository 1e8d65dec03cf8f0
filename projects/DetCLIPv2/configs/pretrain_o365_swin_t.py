"""The paper's pre-training of Swin-T on Objects365 alone (Tab. 4, 9), for 32 GPUs.

Backbones start from ImageNet weights: ``model.backbone.bottom_up.weights=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.solver import schedule_of_epochs

from ....configs.data.lvis import dataloader, inference, lvis
from ....configs.data.pretraining import detection, images, pretraining
from ....configs.models.detclipv2 import swin_t as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

dataloader.train = L(HybridLoader)(seed="${train.seed}", detection=detection)
images = dict(detection=images.detection)
model.backbone.bottom_up.gradient_checkpointing = True
optimizer.lr = 2.8e-4
train.amp.enabled = True
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
