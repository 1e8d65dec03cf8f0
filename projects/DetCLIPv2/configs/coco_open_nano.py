"""The nano model on real photographs: too few to learn from, enough to see that they go through.

`coco_open` has the openly licensed photographs of COCO, 26 to train with and 25 to evaluate on;
for all of COCO, set `coco.folder`.
"""

from ....configs.data.coco import coco, dataloader, inference
from ....configs.models.detclipv2 import nano as model
from ....configs.optim import AdamW as optimizer
from ....configs.schedules import cosine as lr_multiplier
from ....configs.train import train

coco.folder = "${oc.env:DETCLIP2_TEST_DATA}/coco_open"
resize = dataloader.train.detection.mapper.augmentations[0]
resize.update(short_edge_length=[224, 256, 288], max_size=480)
dataloader.train.detection.update(total_batch_size=4, num_workers=2)
dataloader.test.num_workers = 0
inference.update(min_size=256, max_size=480)
optimizer.lr = 2e-3
lr_multiplier.warmup_iterations = 5
train.update(max_iter=50, log_period=10, device="cpu")
