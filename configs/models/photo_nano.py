"""A small model of photographs: EfficientNet-Lite with ImageNet weights, a frozen text tower."""

from copy import deepcopy

from detectron2.config import LazyCall as L

from detclip2.modeling.backbone import TimmBackbone
from detclip2.modeling.text.frozen_tower import FrozenTextTower
from detclip2.modeling.text.text_tower import load_text_model, load_tokenizer

from .detclipv2 import STRIDES, nano

photo_nano = deepcopy(nano)
photo_nano.backbone.bottom_up = L(TimmBackbone)(
    name="tf_efficientnet_lite0",
    drop_path_rate=0.0,
    norm_outputs=False,
    gradient_checkpointing=False,
    # The last stage learns. All stages would take four times as long, and a few hundred images
    # teach them little.
    frozen=["conv_stem", *(f"blocks.{i}" for i in range(6))],
    freeze_norms=True,
    weights="",
)
# The deformable layer takes longer than the rest of the head together.
photo_nano.head.update(deformable=False, embed_dim=256)
photo_nano.text_tower = L(FrozenTextTower)(
    # Its weights come with those of the backbone, from projects/Photographs/tools/join_weights.py.
    model=L(load_text_model)(path="resource://text_tower_photo", pretrained=False),
    tokenizer=L(load_tokenizer)(path="${..model.path}"),
    embed_dim=None,
    max_length=24,
    pooling="mean",
    identity="photo-nano",
)
# Half the sides of ATSS's, whose inputs are 2.5 times as large and whose head is twice as deep:
# things of 64 to 128 px are then found on p4, which sees enough of them.
photo_nano.anchor_generator.sizes = [[4 * stride] for stride in STRIDES]
photo_nano.postprocess.score_threshold = 0.001
photo_nano.update(pixel_mean=[127.0] * 3, pixel_std=[128.0] * 3)
