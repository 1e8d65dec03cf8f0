"""The feature pyramid (Lin et al., Feature Pyramid Networks for Object Detection, 2017)."""

import functools
import itertools

from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn
from torch.nn import functional
from torchvision.ops.misc import FrozenBatchNorm2d

from .backbone import Backbone

__all__ = ["FPN", "LastLevelP6P7"]


def _frozen_batch_norm(channels: int) -> nn.Module:
    norm = FrozenBatchNorm2d(channels)
    norm.running_var -= norm.eps  # so that it starts as the identity
    return norm


class _LayerNorm2d(nn.LayerNorm):
    """Over the channels of (B, C, H, W)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


_NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": _frozen_batch_norm,
    "GN": functools.partial(nn.GroupNorm, 32),
    "LN": functools.partial(_LayerNorm2d, eps=1e-6),
}


class FPN(Backbone):
    """Adds coarser feature maps to finer ones by a top-down path.

    Its outputs are p<n>, of stride 2^n, with `out_channels` channels each.
    """

    def __init__(
        self,
        bottom_up,
        in_features,
        out_channels,
        norm="",
        top_block=None,
        fuse_type="sum",
        square_pad=0,
    ):
        """Put a pyramid on top of a backbone.

        Args:
            bottom_up: the Backbone.
            in_features: names of its feature maps to use, finest first; each has twice the stride
                of the one before.
            out_channels: width of the pyramid.
            norm: "", "BN", "SyncBN", "FrozenBN", "GN", "LN", or a callable that makes a layer
                from a number of channels.
            top_block: module that makes `num_levels` coarser maps from the one called `in_feature`
                (of the backbone or of the pyramid).
            fuse_type: how the two paths meet, "sum" or "avg".
            square_pad: side of a square to pad images to, if above 0.
        """
        super().__init__()
        assert isinstance(bottom_up, Backbone), f"{type(bottom_up)} is no Backbone."
        assert in_features, "FPN needs at least one feature map."
        assert fuse_type in ("sum", "avg"), f"fuse_type {fuse_type} is not 'sum' or 'avg'."
        shapes = [bottom_up.output_shape()[name] for name in in_features]
        strides = [shape.stride for shape in shapes]
        for finer, coarser in itertools.pairwise(strides):
            assert coarser == 2 * finer, f"Strides {finer} {coarser} are not log2 contiguous"
        stages = [stride.bit_length() - 1 for stride in strides]

        self.lateral_convs, self.output_convs = [], []  # coarsest first, as they are applied
        for stage, shape in zip(stages, shapes, strict=True):
            lateral = _ConvNorm(shape.channels, out_channels, 1, norm=norm)
            output = _ConvNorm(out_channels, out_channels, 3, norm=norm)
            for name, conv, convs in (
                (f"fpn_lateral{stage}", lateral, self.lateral_convs),
                (f"fpn_output{stage}", output, self.output_convs),
            ):
                c2_xavier_fill(conv)
                self.add_module(name, conv)
                convs.insert(0, conv)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up

        top_levels = top_block.num_levels if top_block is not None else 0
        stages += range(stages[-1] + 1, stages[-1] + 1 + top_levels)
        self._out_feature_strides = {f"p{stage}": 2**stage for stage in stages}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x):
        """From the backbone's input to a dict of feature maps (B, out_channels, h, w)."""
        bottom_up = self.bottom_up(x)
        maps, fused = [], None
        levels = zip(reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True)
        for name, lateral_conv, output_conv in levels:
            lateral = lateral_conv(bottom_up[name])
            if fused is None:
                fused = lateral
            else:
                fused = lateral + functional.interpolate(fused, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    fused = fused / 2
            maps.insert(0, output_conv(fused))
        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in bottom_up:
                top = bottom_up[source]
            else:
                top = maps[self._out_features.index(source)]
            maps.extend(self.top_block(top))
        return dict(zip(self._out_features, maps, strict=True))


class LastLevelP6P7(nn.Module):
    """Makes p6 and p7 by strided convolutions, from c5 in RetinaNet and from p5 in ATSS."""

    def __init__(self, in_channels, out_channels, in_feature="res5"):
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            c2_xavier_fill(conv)

    def forward(self, c5):
        p6 = self.p6(c5)
        return [p6, self.p7(functional.relu(p6))]


class _ConvNorm(nn.Conv2d):
    """A convolution that keeps the size, followed by a norm layer, or with a bias if norm is ""."""

    def __init__(self, in_channels, out_channels, kernel_size, norm):
        padding = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, bias=norm == "")
        make_norm = _NORMS[norm] if isinstance(norm, str) and norm else norm
        self.norm = make_norm(out_channels) if make_norm else None

    def forward(self, x):
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)
