"""Outputs of a head at random, for losses."""

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform

from detclip2.modeling.heads.outputs import HeadOutputs


def head_outputs(levels, size, generator, **more):
    """Of B images of one size, with levels (B, C, H_l, W_l) of strides 8 and 16."""
    batch_size = len(levels[0])
    anchors = DefaultAnchorGenerator(
        sizes=[[16], [32]], aspect_ratios=[[1.0]], strides=[8, 16], offset=0.5
    )(levels)
    number = sum(map(len, anchors))
    return HeadOutputs(
        regions=torch.zeros(batch_size, number, 4),
        deltas=torch.randn(batch_size, number, 4, generator=generator),
        centerness=torch.randn(batch_size, number, generator=generator),
        anchors=anchors,
        image_sizes=[size] * batch_size,
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        **more,
    )
