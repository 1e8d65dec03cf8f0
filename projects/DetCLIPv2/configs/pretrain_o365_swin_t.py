"""The paper's pre-training of Swin-T on Objects365 alone (Tab. 4, 9), for 32 GPUs.

Backbones start from ImageNet weights: ``model.backbone.bottom_up.weights=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.solver import schedule_of_epochs

dataloader, inference, lvis = get_config("data/lvis.py", ("dataloader", "inference", "lvis"))
concepts, detection, images, pretraining = get_config(
    "data/pretraining.py", ("concepts", "detection", "images", "pretraining")
)
model = get_config("models/detclipv2.py").swin_t
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train


dataloader.train = L(HybridLoader)(seed="${train.seed}", detection=detection)
dataloader.vocabulary.definitions = concepts
images = dict(detection=images.detection)
model.backbone.bottom_up.gradient_checkpointing = True
optimizer.lr = 2.8e-4
train.amp.enabled = True
train.update(schedule_of_epochs(images, dataloader.train, epochs=12))
