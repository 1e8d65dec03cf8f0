"""GLIPv2-T: the mask head on COCO, 24 epochs, all else frozen (second stage of the paper).

From a detector of the same config: ``train.init_checkpoint=FILE``. The paper's rate and
augmentation for this stage are not known.
"""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .coco_glip_t_finetune import (
    augmentations,
    coco,
    dataloader,
    images,
    inference,
    lr_multiplier,
    optimizer,
    train,
)

model = get_config("models/glipv2.py").swin_t_masks

dataloader.train.detection.records.masks = True
dataloader.train.detection.mapper.keep = ["phrase_order", "gt_masks"]
dataloader.train.detection.total_batch_size = 64
dataloader.evaluator.tasks = ["bbox", "segm"]
optimizer.lr = 1e-4
train.update(schedule_of_epochs(images, dataloader.train, epochs=24), learn=["mask_head."])
