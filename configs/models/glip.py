"""GLIP (arXiv 2112.03857) at its published sizes, and a nano size for CPUs.

GLIP-T (B), (C) and GLIP-T are `swin_t`; GLIP-T (A) is `swin_t_unfused`.
"""

from copy import deepcopy

from detectron2.config import LazyCall as L

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.modeling.heads.dyhead import GLIPHead
from detclip2.modeling.heads.token_head import TokenHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.text.text_tower import (
    fresh_text_model,
    load_text_model,
    load_tokenizer,
)
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.modeling.token_postprocess import TokenPostProcess

swin_t = L(GLIP)(
    backbone=L(feature_pyramid)(
        bottom_up=L(TimmBackbone)(
            name="swin_tiny_patch4_window7_224",
            drop_path_rate=0.2,
            gradient_checkpointing=False,
            pad_before_roll=True,
            weights="",
        ),
        channels=256,
        drop_block=0.3,
    ),
    text_tower=L(TokenTower)(
        model=L(load_text_model)(path="bert-base-uncased", add_pooling_layer=False),
        tokenizer=L(load_tokenizer)(path="${..model.path}"),
        max_length=256,
    ),
    head=L(GLIPHead)(num_blocks=6, fuse=True, gradient_checkpointing=True),
    token_head=L(TokenHead)(text_width=768, embed_dim=256, prior=0.01),
    box_losses=L(DetectionCriterion)(assigner=L(ATSSAssigner)(top_k=9), boxes_of_grounding=True),
    postprocess=L(TokenPostProcess)(min_probability=0.05, max_detections=100),
    names_per_caption=None,  # 40 in the published protocol of LVIS
    shuffle=True,
)
swin_t_unfused = deepcopy(swin_t)
swin_t_unfused.head.fuse = False

swin_l = deepcopy(swin_t)
swin_l.backbone.bottom_up.update(name="swin_large_patch4_window12_384", drop_path_rate=0.4)
swin_l.head.num_blocks = 8

# Not from the paper: small enough to train on two cores, with the backbone of DetCLIPv2's nano
# size.
nano = deepcopy(swin_t)
nano.backbone = L(feature_pyramid)(
    bottom_up=L(TimmBackbone)(
        name="resnet10t",
        drop_path_rate=0.0,
        norm_outputs=False,
        gradient_checkpointing=False,
        weights="",
        layers=(1, 2, 2, 1),
        channels=(32, 64, 128, 192),
        stem_width=16,
    ),
    channels=96,
    drop_block=0.0,
)
nano.text_tower = L(TokenTower)(
    model=L(fresh_text_model)(path="resource://bert_nano", add_pooling_layer=False),
    tokenizer=L(load_tokenizer)(path="resource://text_tower_nano"),
    max_length=256,
)
# The tokenizer has no token for masked words: it gets one, so that GLIPv2 can start from GLIP.
nano.text_tower.tokenizer.mask_token = "<mask>"
nano.head = L(GLIPHead)(
    in_channels="${..backbone.channels}",
    num_blocks=2,
    text_width=128,
    text_heads=4,
    text_hidden=256,
    fusion_width=256,
    dropout=0.0,
)
nano.token_head = L(TokenHead)(
    text_width=128,
    embed_dim="${..head.in_channels}",
    prior=0.01,
    initial_scale=5.0,  # short trainings need a larger initial scale
)
