"""What `make demo` trains: the nano model on a small world, in minutes on two cores."""

from .emoji_nano_pairs import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

world.categories = 40
dataloader.test.dataset.count = 100
lr_multiplier.warmup_iterations = 50
train.update(
    source_starts=dict(pairs=300), max_iter=1000, checkpointer=dict(period=100, max_to_keep=1)
)
