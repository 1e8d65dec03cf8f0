"""GLIP-T: fine-tuning on COCO, 24 epochs. From converted weights: ``train.init_checkpoint=FILE``.

All 80 names are one caption in the order of the data set, in training as in evaluation.
"""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

coco, dataloader, inference = get_config("data/coco.py", ("coco", "dataloader", "inference"))
augmentations = get_config("data/glip.py").detection.mapper.augmentations
model = get_config("models/glip.py").swin_t
model.text_tower.model.pretrained = False  # its weights are among the model's
optimizer = get_config("optim.py").AdamW_glip
lr_multiplier = get_config("schedules.py").steps
train = get_config("train.py").train

dataloader.train.detection.mapper.update(
    augmentations=augmentations, max_phrases=80, keep=["phrase_order"]
)
dataloader.train.detection.total_batch_size = 32
images = dict(detection=118_287)
optimizer.lr = 1e-5
optimizer.params.lr_factor_func.functions[0].factor = 1.0  # the text model learns as fast
train.amp.enabled = True
train.update(clip_grad=1.0, ema=0.999)
train.update(schedule_of_epochs(images, dataloader.train, epochs=24))
