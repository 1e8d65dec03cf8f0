"""Swin-T on LVIS minival, whose boxes it has not been trained with: standard and Fixed AP.

Evaluation only: ``train_net.py --config-file THIS --eval-only train.init_checkpoint=FILE``; for the
whole validation set ``lvis.split=lvis_v1_val``.
"""

from detclip2 import get_config

dataloader, inference, lvis = get_config("data/lvis.py", ("dataloader", "inference", "lvis"))
model = get_config("models/detclipv2.py").swin_t
train = get_config("train.py").train


# Fixed AP limits classes, not images, so an image may give more than standard AP's 300. GLIP, whose
# protocol the paper follows, asks for 40 names at a time and keeps 300 detections of each such
# pass; here one pass asks for all names, and keeps 1,000, as YOLO-World does.
model.postprocess.update(score_threshold=0.01, max_candidates=10_000, max_detections=1000)
