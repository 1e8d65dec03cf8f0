"""The benchmark in its large size: Swin-T, all categories at 320 px, for GPUs; not run yet."""

from detclip2 import get_config

from ..evidence.budget import schedule_of_budget
from .benchmark import (
    benchmark,
    dataloader,
    inference,
    lr_multiplier,
    optimizer,
    train,
    world,
)

model = get_config("models/detclipv2.py").swin_t

world.update(categories=None, size=320, pairs_size=192)
dataloader.test.dataset.count = 2000
dataloader.train.detection.update(total_batch_size=64, num_workers=8)
dataloader.train.grounding.update(total_batch_size=64, num_workers=8)
dataloader.train.pairs.update(total_batch_size=1024, num_workers=16)
benchmark.update(shared=6000, iterations=dict(detection=24000, grounding=9000, pairs=12000))
lr_multiplier.warmup_iterations = 1000
model.postprocess.update(score_threshold=0.001, max_detections=1000)

train.update(schedule_of_budget(benchmark["iterations"], benchmark["shared"]))
train.update(
    device="cuda",
    amp=dict(enabled=True, precision="bfloat16"),
    micro_batch=dict(caption=256),
    checkpointer=dict(period=2000, max_to_keep=2),
)
