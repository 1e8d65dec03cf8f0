"""The benchmark in its standard size: all categories at 160 px, hours on two cores."""

from ..evidence.budget import schedule_of_budget
from .benchmark import (
    benchmark,
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

world.update(categories=None, size=160, pairs_size=96)  # None: as many as there are
dataloader.test.dataset.count = 1000
# With few images, many small steps train better than few large ones.
dataloader.train.detection.total_batch_size = 8
dataloader.train.grounding.total_batch_size = 8
# The paper has 150 (Tab. 9). A batch's phrases are negatives of all its samples, and with more
# than some ninety of them the text took a third of a step on processors.
dataloader.train.detection.mapper.max_phrases = 12
dataloader.train.grounding.mapper.max_phrases = 12
# Among 1,037 names at once, 3,000 iterations of boxes alone distinguish none, and image-text pairs
# do so slowly. Among 100 names some 300 iterations suffice, and help with the other names.
benchmark.update(
    shared=1200,
    growth=[(100, 1200), (200, 3200), (450, 6200)],
    iterations=dict(detection=11000, grounding=500, pairs=10000),
)
lr_multiplier.decay_start = benchmark["growth"][-1][1]  # constant until the world is whole
optimizer.lr = 1e-3
lr_multiplier.warmup_iterations = 200
# The paper has 0.1 (Tab. 2f), with 6144 captions a batch; see emoji_nano_pairs.
model.contrast.weight = 0.3

# Without clipping, image-text pairs break the model after 200 iterations: the loss of boxes rises
# from 2 to 6, and the contrast stays at chance.
train.clip_grad = 1.0
train.update(schedule_of_budget(benchmark["iterations"], benchmark["shared"]))
