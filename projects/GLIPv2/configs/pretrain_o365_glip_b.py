"""GLIP-T (B): pre-training on Objects365 alone, for 32 GPUs.

The backbone starts from ImageNet weights: ``model.backbone.bottom_up.weights=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.solver import schedule_of_epochs

dataloader, inference, lvis = get_config("data/lvis.py", ("dataloader", "inference", "lvis"))
detection, images, pretraining = get_config("data/glip.py", ("detection", "images", "pretraining"))
model = get_config("models/glip.py").swin_t
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").steps
train = get_config("train.py").train


dataloader.train = L(HybridLoader)(seed="${train.seed}", detection=detection)
dataloader.vocabulary.definitions = None  # GLIP reads names alone
images = dict(detection=images.detection)
model.names_per_caption = 40  # the published protocol of LVIS
model.postprocess.max_detections = 300
train.amp.enabled = True
train.update(clip_grad=1.0, ema=0.999)
train.update(schedule_of_epochs(images, dataloader.train, epochs=30))
