"""GLIP-T: fine-tuning on a set of ODinW-13 with few images, for 4 GPUs.

Set by set: ``odinw.name=Aquarium odinw.shots=3 odinw.seed=30 odinw.copies=4
train.init_checkpoint=FILE``. GLIP's shots and copies are 1 and 8, 3 and 4, 5 and 2, 10 and 1; its
seeds 3, 30 and 300. What learns, by GLIP's levels: all, or by ``train.learn`` the last layers or
offsets of the names (docs/finetune.md).
"""

from detclip2 import get_config

dataloader, inference, lr_multiplier, model, odinw, optimizer, train = get_config(
    "odinw_glip_t_full_shot",
    ("dataloader", "inference", "lr_multiplier", "model", "odinw", "optimizer", "train"),
)

odinw.update(shots=3, seed=30, copies=4)
for _records in (dataloader.train.detection.records, dataloader.test.dataset):
    _records.update(shots="${odinw.shots}", seed="${odinw.seed}")
dataloader.train.detection.records.copies = "${odinw.copies}"
train.reduce_lr_on_plateau.update(patience=3, early_stopping_patience=8)
