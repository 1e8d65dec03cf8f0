"""GLIP-L on COCO's validation set, without training on its boxes; for --eval-only."""

from detclip2 import get_config

coco, dataloader, inference = get_config("data/coco.py", ("coco", "dataloader", "inference"))
model = get_config("models/glip.py").swin_l
train = get_config("train.py").train

del dataloader["train"]
dataloader.test.dataset.name = "coco_2017_val"
model.text_tower.model.pretrained = False  # its weights are among the model's
