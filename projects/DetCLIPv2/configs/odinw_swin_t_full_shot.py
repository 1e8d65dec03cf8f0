"""The paper's fine-tuning of Swin-T on a set of ODinW-13 (Tab. 11), for 8 GPUs, with prompts.

From the weights of a pre-training, set by set: ``odinw.name=Aquarium train.init_checkpoint=FILE``.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.datasets.odinw import odinw_prompts, odinw_set
from detclip2.engine.solver import warmup_constant

dataloader, inference = get_config("data/coco.py", ("dataloader", "inference"))
model = get_config("models/detclipv2.py").swin_t
optimizer = get_config("optim.py").AdamW
train = get_config("train.py").train

odinw = dict(name="Aquarium", folder="${oc.env:DETECTRON2_DATASETS}/odinw")
_valid = L(odinw_set)(
    name="${odinw.name}",
    root="${odinw.folder}",
    split="valid",
    folder="${train.output_dir}/data",
)
dataloader.test.dataset = _valid
dataloader.train.detection.records = deepcopy(_valid)
dataloader.train.detection.records.split = "train"
dataloader.train.detection.mapper.names = L(odinw_prompts)(name="${odinw.name}")
dataloader.train.detection.total_batch_size = 32
dataloader.evaluator.dataset_name = "${odinw.name}_valid"

model.backbone.bottom_up.gradient_checkpointing = True
optimizer.lr = 4e-5
optimizer.params.lr_factor_func.factor = 0.01  # 4e-7 for the text tower
lr_multiplier = L(warmup_constant)(max_iter="${train.max_iter}", warmup_iterations=500)
# The rate is reduced after 5 epochs without a better AP; training ends after 8 at the lowest.
train.update(
    epochs=250,
    reduce_lr_on_plateau=dict(patience=5, early_stopping_patience=8, factor=0.1, min_lr=1e-8),
)
train.amp.enabled = True
