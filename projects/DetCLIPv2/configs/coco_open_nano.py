"""The nano model on real images: too few to learn from, enough to test the pipeline.

`coco_open` has openly licensed images of COCO, 26 to train with and 25 to evaluate on;
for all of COCO, set `coco.folder`.
"""

from detclip2 import get_config

coco, dataloader, inference = get_config("data/coco.py", ("coco", "dataloader", "inference"))
model = get_config("models/detclipv2.py").nano
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

coco.folder = "${oc.env:DETCLIP2_TEST_DATA}/coco_open"
resize = dataloader.train.detection.mapper.augmentations[0]
resize.update(short_edge_length=[224, 256, 288], max_size=480)
dataloader.train.detection.update(total_batch_size=4, num_workers=2)
dataloader.test.num_workers = 0
inference.update(min_size=256, max_size=480)
optimizer.lr = 2e-3
lr_multiplier.warmup_iterations = 5
train.update(max_iter=50, log_period=10)
