"""Swin-T on COCO's validation set, whose boxes it has not been trained with.

Evaluation only: ``train_net.py --config-file THIS --eval-only train.init_checkpoint=FILE``.
"""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.text.concepts import ConceptDictionary

coco, dataloader, inference = get_config("data/coco.py", ("coco", "dataloader", "inference"))
model = get_config("models/detclipv2.py").swin_t
train = get_config("train.py").train


del dataloader["train"]
dataloader.test.dataset.name = "coco_2017_val"
# COCO has no definitions: those of LVIS are used, for names that are in LVIS.
dataloader.vocabulary.definitions = L(ConceptDictionary.builtin)(name="lvis")
model.postprocess.max_detections = 100  # of an image, as many as COCO's protocol allows
