"""GLIPv2 at its nano size on EmojiScenes with masks of names and of references, from scratch.

The data are those of emoji_glip_nano with the exact masks of the layouts: of two objects that
overlap, a pixel belongs to the one in front. The mask head learns with the rest; the paper's second
stage, in which it learns alone, is ``train.learn=[mask_head.] train.init_checkpoint=FILE``.
"""

from detclip2 import get_config

from .emoji_glip_nano import (
    dataloader,
    inference,
    lr_multiplier,
    optimizer,
    train,
    world,
)

model = get_config("models/glipv2.py").nano_masks

dataloader.train.detection.records.masks = True
dataloader.train.detection.mapper.keep = ["gt_masks"]
dataloader.train.grounding.records.masks = True
dataloader.train.grounding.mapper.keep = ["phrase_spans", "gt_masks"]
# L_mlm would mask the names of absent things, too.
dataloader.train.grounding.mapper.negatives = None
dataloader.test.dataset.masks = True
dataloader.evaluator.tasks = ["bbox", "segm"]
