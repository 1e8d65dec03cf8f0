"""photo_nano, trained further on your own boxes and image-text pairs: docs/pairs.md."""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.data.hybrid_loader import HybridLoader
from detclip2.utils.model_folder import read_model_folder

boxes, captions, own, shards, web = get_config(
    "data/own_pairs.py", ("boxes", "captions", "own", "shards", "web")
)
dataloader = get_config("data/coco.py").dataloader
inference = get_config("data/photographs.py").inference
model = get_config("models/photo_nano.py").photo_nano
optimizer = get_config("optim.py").AdamW
lr_multiplier = get_config("schedules.py").cosine
train = get_config("train.py").train

dataloader.train = L(HybridLoader)(
    seed="${train.seed}", boxes=boxes, captions=captions, web=web, shards=shards
)
dataloader.test.update(num_workers=0)
dataloader.test.dataset.update(
    name="own_val", json_file="${own.folder}/val.json", image_root="${own.folder}/images"
)
optimizer.lr = 5e-4
lr_multiplier.warmup_iterations = 100
train.update(
    init_checkpoint=str(read_model_folder("photo_nano")[1]),
    source_ratios=dict(boxes=2, captions=1, web=1, shards=1),
    max_iter=1000,
    eval_period=200,
    clip_grad=10.0,
)
