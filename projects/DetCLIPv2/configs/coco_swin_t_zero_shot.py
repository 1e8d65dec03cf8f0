"""Swin-T on COCO's validation set, whose boxes it has not been trained with.

Evaluation only: ``train_net.py --config-file THIS --eval-only train.init_checkpoint=FILE``.
"""

from ....configs.data.coco import coco, dataloader, inference
from ....configs.models.detclipv2 import swin_t as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

del dataloader["train"]
dataloader.test.dataset.name = "coco_2017_val"
model.postprocess.max_detections = 100  # of an image, as many as COCO's protocol counts
