"""The benchmark in its quick size: 20 categories at 128 px, minutes a run on two cores."""

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

world.update(categories=20, size=128, pairs_size=96)
dataloader.test.dataset.count = 300
# With few images, many small steps train better than few large ones.
dataloader.train.detection.total_batch_size = 8
dataloader.train.grounding.total_batch_size = 8
benchmark.update(shared=500, iterations=dict(detection=1100, grounding=200, pairs=300))
# For each category a word of WordNet that no training text has: a synonym or a close relative.
benchmark["more_tests"]["synonyms"] = dict(contents=None, called={
    "elephant": "pachyderm", "alarm clock": "timepiece", "castle": "fortress",
    "sunflower": "helianthus", "hammer": "mallet", "turtle": "terrapin", "strawberry": "berry",
    "frog": "toad", "scissors": "shears", "crown": "tiara", "drum": "tambour",
    "helicopter": "whirlybird", "airplane": "plane", "backpack": "knapsack", "owl": "hooter",
    "bicycle": "cycle", "watermelon": "melon", "camera": "camcorder", "horse": "pony",
    "fire engine": "pumper",
})  # fmt: skip
optimizer.lr = 1e-3
lr_multiplier.warmup_iterations = 50
# The paper has 0.1 (Tab. 2f), with 6144 captions a batch; see emoji_nano_pairs.
model.contrast.weight = 0.3

train.update(schedule_of_budget(benchmark["iterations"], benchmark["shared"]))
