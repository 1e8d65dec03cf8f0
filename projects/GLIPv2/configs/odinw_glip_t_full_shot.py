"""GLIP-T: fine-tuning on a set of ODinW-13 with all its images, for 4 GPUs.

From converted weights, set by set: ``odinw.name=Aquarium train.init_checkpoint=FILE``.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.datasets.odinw import odinw_prompts, odinw_set
from detclip2.engine.solver import warmup_constant

dataloader, inference = get_config("data/coco.py", ("dataloader", "inference"))
augmentations = get_config("data/glip.py").detection.mapper.augmentations
model = get_config("models/glip.py").swin_t
model.text_tower.model.pretrained = False  # its weights are among the model's
optimizer = get_config("optim.py").AdamW_glip
train = get_config("train.py").train

odinw = dict(name="Aquarium", folder="${oc.env:DETECTRON2_DATASETS}/odinw")
_valid = L(odinw_set)(
    name="${odinw.name}",
    root="${odinw.folder}",
    split="valid",
    folder="${train.output_dir}/data",
)
dataloader.test.dataset = _valid
dataloader.evaluator.dataset_name = "${odinw.name}_valid"
_detection = dataloader.train.detection
_detection.records = deepcopy(_valid)
_detection.records.split = "train"
_detection.mapper.update(augmentations=augmentations, keep=["phrase_order"])
_detection.mapper.names = L(odinw_prompts)(name="${odinw.name}")
_detection.total_batch_size = 4

model.backbone.bottom_up.frozen = ["patch_embed", "layers_0."]
optimizer.update(lr=1e-4, weight_decay=0.05)
lr_multiplier = L(warmup_constant)(max_iter="${train.max_iter}", warmup_iterations=500)
# GLIP's few-shot trainings wait longer: 3 evaluations, and 8 before they end.
train.update(
    epochs=200,
    clip_grad=1.0,
    reduce_lr_on_plateau=dict(patience=2, early_stopping_patience=4, factor=0.1, min_lr=1e-8),
)
train.amp.enabled = True
