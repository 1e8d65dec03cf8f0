"""GLIP-T (A) on LVIS minival, without training on its boxes: standard and Fixed AP.

For --eval-only; the whole validation set is ``lvis.split=lvis_v1_val``.
"""

from detclip2 import get_config

dataloader, inference, lvis = get_config("data/lvis.py", ("dataloader", "inference", "lvis"))
model = get_config("models/glip.py").swin_t_unfused
train = get_config("train.py").train

dataloader.vocabulary.definitions = None
model.text_tower.model.pretrained = False  # its weights are among the model's
# The published protocol asks for 40 names at a time and keeps 300 detections of each such caption.
model.names_per_caption = 40
model.postprocess.max_detections = 31 * 300  # of all captions
