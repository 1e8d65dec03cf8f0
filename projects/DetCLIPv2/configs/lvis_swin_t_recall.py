"""Swin-T on LVIS minival: average recall without classes, by size of objects (Tab. 8).

Evaluation only: ``train_net.py --config-file THIS --eval-only train.init_checkpoint=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2.evaluation.average_recall import AverageRecallEvaluator

from .lvis_swin_t_zero_shot import (
    dataloader,
    inference,
    lvis,
    model,
    train,
)

dataloader.evaluator = L(AverageRecallEvaluator)(
    dataset_name="${lvis.split}",
    max_detections=[100, 300, 1000],
    output_dir="${train.output_dir}/inference",
)
# Otherwise, boxes that differ only in their name displace others.
model.postprocess.class_agnostic_nms = True
