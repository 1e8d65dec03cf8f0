"""Swin-T on LVIS minival and COCO in one evaluation, without training on their boxes.

Evaluation only: ``train_net.py --config-file THIS --eval-only train.init_checkpoint=FILE``. Results
are ``lvis/bbox_fixed/AP``, ``coco/bbox/AP`` and so on.
"""

from .coco_swin_t_zero_shot import coco
from .coco_swin_t_zero_shot import dataloader as _coco
from .lvis_swin_t_zero_shot import dataloader as _lvis
from .lvis_swin_t_zero_shot import inference, lvis, model, train

dataloader = dict(
    tests={
        name: dict(loader=one.test, evaluator=one.evaluator, vocabulary=one.vocabulary)
        for name, one in (("lvis", _lvis), ("coco", _coco))
    }
)
for _name, _test in dataloader["tests"].items():
    _test["evaluator"].output_dir = "${train.output_dir}/inference/" + _name
dataloader["tests"]["coco"]["evaluator"].dataset_name = "coco_2017_val"
dataloader["tests"]["coco"]["vocabulary"].dataset_name = "coco_2017_val"
