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

world.update(categories=100, size=224)
dataloader.test.dataset.count = 100
train.update(max_iter=700, checkpointer=dict(period=100, max_to_keep=1))
