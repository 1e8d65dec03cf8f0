"""The nano model on photographs, from boxes alone."""

from detectron2.config import LazyCall as L

from detclip2 import get_config
from detclip2.engine.solver import PrefixFactors, WarmupHoldCosine

dataloader, inference, photos = get_config(
    "data/photographs.py", ("dataloader", "inference", "photos")
)
model = get_config("models/photo_nano.py").photo_nano
optimizer = get_config("optim.py").AdamW
train = get_config("train.py").train

optimizer.lr = 1.5e-3
optimizer.params.lr_factor_func = L(PrefixFactors)(factors={"backbone.bottom_up.": 0.1})
# A constant rate first: a run can be lengthened, or its decay started, while it runs.
lr_multiplier = L(WarmupHoldCosine)(
    max_iter="${train.max_iter}", warmup_iterations=200, decay_start=2000
)
train.update(
    init_checkpoint="${photos.data}/start.safetensors",  # of backbone and text tower
    max_iter=3000,
    device="cpu",
    amp=dict(enabled=True, precision="bfloat16"),
    channels_last=True,
    clip_grad=10.0,
    ema=0.998,
    eval_period=1000,
    checkpointer=dict(period=500, max_to_keep=2),
)
