"""GLIP-T: pre-training on Objects365, GoldG and 4 million captions with pseudo-labels (Cap4M).

The boxes of captions are those of a teacher, in the paper GLIP-L: scripts/pseudo_label.py.
"""

from detclip2 import get_config
from detclip2.engine.solver import schedule_of_epochs

from .pretrain_o365_goldg_glip_c import (
    dataloader,
    inference,
    lr_multiplier,
    lvis,
    model,
    optimizer,
    pretraining,
    train,
)

images, web = get_config("data/glip.py", ("images", "web"))

dataloader.train.web = web
train.update(schedule_of_epochs(images, dataloader.train, epochs=30))
train.max_iter = 330_000  # a guess, of GLIPv2-T: the length of this training is not published
