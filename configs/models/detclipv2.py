"""DetCLIPv2 at the paper's sizes (Swin-T, Swin-L) and a nano size for CPUs."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone, feature_pyramid
from detclip2.modeling.heads.atss_head import ATSSHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.text.text_tower import (
    TextTower,
    fresh_text_model,
    load_text_model,
    load_tokenizer,
)

STRIDES = [8, 16, 32, 64, 128]  # of the levels p3 to p7, px

swin_t = L(DetCLIPv2)(
    backbone=L(feature_pyramid)(
        bottom_up=L(TimmBackbone)(
            name="swin_tiny_patch4_window7_224",
            drop_path_rate=0.2,  # Tab. 9
            norm_outputs=True,
            gradient_checkpointing=False,
            weights="",  # a file with ImageNet weights in timm's names
        ),
        channels=256,
    ),
    head=L(ATSSHead)(
        in_channels="${..backbone.channels}",
        embed_dim=256,  # not given in the paper; FILIP's is 256
        num_levels=5,
        num_convs=4,
        deformable=True,  # Tab. 3
        num_groups=32,
        objectness=None,  # "class" or "iou" for the proposal scores of these names (Tab. 2a)
    ),
    text_tower=L(TextTower)(
        # The paper starts from FILIP, which was never released; CLIP is the nearest public model.
        model=L(load_text_model)(path="openai/clip-vit-base-patch32", pretrained=True),
        tokenizer=L(load_tokenizer)(path="${..model.path}"),
        embed_dim="${..head.embed_dim}",
        max_length=16,  # Tab. 9
        pooling="end_of_text",
    ),
    align=L(Alignment)(prior=0.01, normalize_regions=False, initial_scale=1.0),
    box_losses=L(DetectionCriterion)(
        assigner=L(ATSSAssigner)(top_k=9),
        focal_alpha=0.25,
        focal_gamma=2.0,
        box_weight=2.0,
        centerness_weight=1.0,
        boxes_of_grounding=False,  # sec. 3.3
        objectness_weight=1.0,  # not given in the paper; used only with head.objectness
    ),
    contrast=L(WordRegionContrast)(
        num_proposals=100,  # R, Tab. 2d
        nms_threshold=0.6,  # neither this one nor the next is given in the paper
        pre_nms=1000,
        proposal_score="text_batch",  # Tab. 2a
        matching="one_to_one",  # Tab. 2b
        matching_temperature=0.1,  # tau_t of eq. 4, for "one_to_many"; not given in the paper
        direction="text_to_image",  # Tab. 2c
        temperature=0.5,  # tau of eq. 5, Tab. 2e
        label_smoothing=0.1,  # Tab. 9
        weight=0.1,  # lambda of eq. 6
        negatives="global",  # images of all processes
        cosine=False,
        max_elements=2**24,  # similarities in memory at once
    ),
    postprocess=L(PostProcess)(
        score_threshold=0.05,
        nms_threshold=0.6,
        class_agnostic_nms=False,
        max_candidates=3000,
        max_detections=300,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[8 * stride] for stride in STRIDES],  # one square a location, as in ATSS
        aspect_ratios=[[1.0]],
        strides=STRIDES,
        offset=0.5,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=(10.0, 10.0, 5.0, 5.0)),
    pixel_mean=[123.675, 116.28, 103.53],  # RGB
    pixel_std=[58.395, 57.12, 57.375],
)

swin_l = deepcopy(swin_t)
swin_l.backbone = L(feature_pyramid)(
    bottom_up=L(TimmBackbone)(
        name="swin_large_patch4_window12_384",
        drop_path_rate=0.2,
        norm_outputs=True,
        gradient_checkpointing=True,  # sec. 4.1
        weights="",
    ),
    channels=256,
)

# Not from the paper: small enough to train on two cores. A convolutional backbone, because from
# random weights it learns in minutes what a Swin learns in hours.
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
)
nano.head = L(ATSSHead)(
    in_channels="${..backbone.channels}",
    embed_dim=128,
    num_levels=5,
    num_convs=2,
    deformable=True,
    num_groups=16,
    objectness=None,
)
nano.text_tower = L(TextTower)(
    model=L(fresh_text_model)(path="resource://text_tower_nano"),
    tokenizer=L(load_tokenizer)(path="${..model.path}"),
    embed_dim="${..head.embed_dim}",
    max_length=16,
    pooling="mean",
    identity="detclip2-nano",
)
nano.align.initial_scale = 5.0  # short trainings need a larger initial scale
