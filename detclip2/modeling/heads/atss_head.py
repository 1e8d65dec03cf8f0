"""The RPN-free head of ATSS, with the deformable layer that joins its two towers (sec. 3.3)."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from detclip2.modeling.layers.conv3x3 import Conv3x3
from detclip2.modeling.layers.deform_conv import deformable_conv
from detclip2.modeling.layers.fast_path import is_cpu_inference
from detclip2.utils.errors import UserError

Objectness = Literal["class", "iou"]


class ATSSHead(nn.Module):
    """Two towers of convolutions shared by all levels.

    The box tower predicts boxes and centerness. The class tower yields one embedding a location;
    its first layer is a deformable convolution whose offsets come from the box tower, so that
    image-text pairs, which have no boxes, train the box tower too (paper, sec. 3.3, Tab. 3).

    Args:
        in_channels: channels of every pyramid level; the towers keep this width.
        embed_dim: D.
        num_levels: pyramid levels, each with a learnable scale on its box deltas (as ATSS).
        num_convs: convolutions a tower, 4 in ATSS.
        deformable: False removes the deformable layer (ablation of Tab. 3).
        num_groups: groups of GroupNorm.
        objectness: None, or a class-agnostic logit at each location, trained on data with boxes.
            Only the word-region contrast reads it (``proposal_score`` of the same name, Tab. 2a).
            ``class`` predicts from the class tower whether the location is on an object; ``iou``
            predicts from the box tower the IoU of its box (arXiv 1912.05992).

    Raises:
        UserError: ``objectness`` is none of these.
    """

    def __init__(
        self,
        in_channels: int = 256,
        embed_dim: int = 256,
        num_levels: int = 5,
        num_convs: int = 4,
        deformable: bool = True,
        num_groups: int = 32,
        objectness: Objectness | None = None,
    ) -> None:
        super().__init__()
        if objectness not in (None, *get_args(Objectness)):
            raise UserError(f"head.objectness is {objectness!r}; expected 'class', 'iou' or None")
        self.box_tower = _tower(in_channels, num_convs, num_groups)
        self.class_tower = _tower(in_channels, num_convs, num_groups)
        self.deformable = DeformableLayer(in_channels, num_groups) if deformable else None
        # A linear map instead of ATSS's 3x3 convolution to class scores: the similarity of a
        # location and a phrase is one dot product, into which a vocabulary can be folded.
        self.region = nn.Conv2d(in_channels, embed_dim, kernel_size=1)
        self.box = nn.Conv2d(in_channels, 4, kernel_size=3, padding=1)
        self.centerness = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels))
        for layer in (self.region, self.box, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.get_parameter("bias"))
        # Region embeddings of about unit length, so that similarities start within +-1.
        nn.init.normal_(self.region.weight, std=1 / math.sqrt(in_channels * embed_dim))
        self.objectness_kind = objectness
        self.objectness = None if objectness is None else _objectness(objectness, in_channels)

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Levels of (B, C, H_l, W_l) -> outputs for all K = sum H_l W_l anchors.

        Returns:
            ``regions`` (B, K, D), ``deltas`` (B, K, 4), ``centerness`` (B, K) logits, and
            ``objectness`` (B, K) logits if the head has it, with all levels joined, finest first:
            the tensors of `HeadOutputs`.
        """
        of_boxes = through(self.box_tower, features)
        predicted = [together(self._box_layers(), x) for x in of_boxes]
        of_classes = features
        if self.deformable is not None:
            of_classes = [
                self.deformable(x, p[2]) for x, p in zip(features, predicted, strict=True)
            ]
        of_classes = through(self.class_tower, of_classes)
        deltas = [p[0] * scale for p, scale in zip(predicted, self.scales, strict=True)]
        outputs = {
            "regions": join_levels([self.region(x) for x in of_classes]),
            "deltas": join_levels(deltas),
            "centerness": join_levels([p[1] for p in predicted]).squeeze(-1),
        }
        if self.objectness is not None:
            read = of_classes if self.objectness_kind == "class" else of_boxes
            outputs["objectness"] = join_levels([self.objectness(x) for x in read]).squeeze(-1)
        return outputs

    def _box_layers(self) -> list[nn.Conv2d]:
        """The layers for boxes, centerness, and offsets and masks if there are any."""
        layers = [self.box, self.centerness]
        return layers if self.deformable is None else [*layers, self.deformable.offsets_and_mask]


class DeformableLayer(nn.Module):
    """A modulated deformable 3x3 convolution with offsets and masks from the box tower.

    Args:
        channels: input and output channels.
        num_groups: groups of the GroupNorm after it.
    """

    def __init__(self, channels: int, num_groups: int = 32) -> None:
        super().__init__()
        # Only holds the weight; it never runs as an ordinary convolution.
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.offsets_and_mask = nn.Conv2d(channels, 3 * 9, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(num_groups, channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        # Starts as an ordinary convolution: no offsets and equal masks.
        nn.init.zeros_(self.offsets_and_mask.weight)
        nn.init.zeros_(self.offsets_and_mask.get_parameter("bias"))

    def forward(self, x: Tensor, offsets_and_mask: Tensor) -> Tensor:
        """``x`` (B, C, H, W), the layer's output of that name (B, 27, H, W) -> (B, C, H, W)."""
        offsets, mask = offsets_and_mask.split((18, 9), dim=1)
        # Offsets are in pixels: half precision would round them to a quarter of one.
        with torch.autocast(x.device.type, enabled=False):
            sampled = deformable_conv(
                x.float(),
                offsets.float(),
                mask.float().sigmoid(),
                self.conv.weight.float(),
                self.training,
            )
        return torch.relu_(self.norm(sampled))


def through(tower: nn.Sequential, levels: Sequence[Tensor]) -> list[Tensor]:
    """Levels of (B, C, H_l, W_l) through the layers of a tower, all levels layer by layer."""
    for layer in tower:
        if isinstance(layer, Conv3x3):
            levels = layer.over_levels(levels)
        else:
            levels = [layer(x) for x in levels]
    return list(levels)


def together(layers: Sequence[nn.Conv2d], x: Tensor) -> Sequence[Tensor]:
    """The outputs of several 3x3 convolutions of one map, (B, O, H, W) each.

    In inference on a CPU they are one convolution: one channel takes as long as 16.
    """
    plain = all(type(layer) is nn.Conv2d and is_cpu_inference(layer, x) for layer in layers)
    if not plain:
        return [layer(x) for layer in layers]
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.get_parameter("bias") for layer in layers])
    joined = functional.conv2d(x, weight, bias, padding=1)
    return joined.split([layer.out_channels for layer in layers], dim=1)


def join_levels(levels: Sequence[Tensor]) -> Tensor:
    """Levels of (B, C, H_l, W_l) -> (B, K, C), row by row, finest level first."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)


def _objectness(kind: Objectness, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 1, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    # Focal loss starts from the probability 0.01, as alignment does.
    prior = 0.01 if kind == "class" else 0.5
    nn.init.constant_(conv.get_parameter("bias"), math.log(prior / (1 - prior)))
    return conv


def _tower(channels: int, num_convs: int, num_groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        conv = Conv3x3(channels, channels, bias=False)
        # Detectron2's FCOS uses std 0.01; with GroupNorm after it the scale does not matter.
        nn.init.normal_(conv.weight, std=0.01)
        layers += [conv, nn.GroupNorm(num_groups, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
