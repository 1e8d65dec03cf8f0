"""The paper's fine-tuning of Swin-T on LVIS: 24 epochs (Tab. 10), for 16 GPUs.

From the weights of a pre-training: ``train.init_checkpoint=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.hybrid_loader import HybridLoader
from detclip2.engine.solver import schedule_of_epochs

from .lvis_swin_t_zero_shot import (
    dataloader,
    inference,
    lvis,
    model,
    train,
)

detection, pretraining = get_config("data/pretraining.py", ("detection", "pretraining"))
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine

detection.records.update(
    name="lvis_v1_train_boxes",
    json_file="${pretraining.folder}/lvis/lvis_v1_train.json",
    image_root="${pretraining.folder}/coco",
    evaluator_type="lvis",
)
detection.total_batch_size = 64
images = dict(detection=100_170)
dataloader.train = L(HybridLoader)(seed="${train.seed}", detection=detection)
model.backbone.bottom_up.gradient_checkpointing = True
optimizer.lr = 4e-5
train.amp.enabled = True
train.update(schedule_of_epochs(images, dataloader.train, epochs=24))
