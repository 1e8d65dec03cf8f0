"""What `make demo` trains: the nano model on a small world, in minutes on two cores."""

from .emoji_nano_detection import (
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
    world,
)

world.update(categories=40, size=192)
dataloader.test.dataset.count = 100
optimizer.lr = 2e-3
lr_multiplier.warmup_iterations = 50
train.update(max_iter=700, checkpointer=dict(period=100, max_to_keep=1))
