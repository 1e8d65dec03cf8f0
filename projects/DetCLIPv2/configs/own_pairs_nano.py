"""The nano model on boxes of COCO and your own image-text pairs.

Set `own.folder` to the folder that has `captions.jsonl` with `images/`, and `list.tsv` with `web/`.
If you have only one of the two, delete the other source.
"""

from detclip2 import get_config

from .coco_open_nano import (
    coco,
    dataloader,
    inference,
    lr_multiplier,
    model,
    optimizer,
    train,
)

captions, own, web = get_config("data/own_pairs.py", ("captions", "own", "web"))
dataloader.train.update(captions=captions, web=web)
train.update(source_ratios=dict(detection=2, captions=1, web=1), max_iter=1000)
