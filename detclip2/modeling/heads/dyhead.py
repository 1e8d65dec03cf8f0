"""The dynamic head (arXiv 2106.08322), and GLIP's head, in which fusions alternate with it."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from detclip2.modeling.heads.atss_head import join_levels
from detclip2.modeling.heads.fusion import Fusion
from detclip2.modeling.layers.deform_conv import deformable_conv


class GLIPHead(nn.Module):
    """N blocks of deep fusion, a text layer and a dynamic block, then boxes and centerness.

    Args:
        in_channels: channels of every pyramid level; the blocks keep this width.
        num_blocks: N; 6 in GLIP-T, 8 in GLIP-L.
        num_levels: pyramid levels, each with a learnable scale on its box deltas.
        fuse: False: blocks have no fusion and no text layer, and do not read the text (GLIP-T (A)).
        text_width: channels of a token.
        text_heads: attention heads of a text layer.
        text_hidden: hidden channels of a text layer.
        fusion_width: width of queries, keys and values of a fusion, all heads together.
        num_groups: groups of GroupNorm.
        dropout: of fusions and text layers.
        gradient_checkpointing: save memory by a second forward pass through the fusions.
    """

    def __init__(
        self,
        in_channels: int = 256,
        num_blocks: int = 6,
        num_levels: int = 5,
        fuse: bool = True,
        text_width: int = 768,
        text_heads: int = 12,
        text_hidden: int = 3072,
        fusion_width: int = 2048,
        num_groups: int = 16,
        dropout: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels
        self.gradient_checkpointing = gradient_checkpointing
        self.image_layers = nn.ModuleList(
            DynamicBlock(in_channels, num_groups) for _ in range(num_blocks)
        )
        num_fusions = num_blocks if fuse else 0
        self.fusions = nn.ModuleList(
            Fusion(
                in_channels,
                text_width,
                fusion_width,
                dropout=dropout,
                initial_scale=1 / num_blocks,
            )
            for _ in range(num_fusions)
        )
        self.text_layers = nn.ModuleList(
            BertLayer(text_width, text_heads, text_hidden, dropout) for _ in range(num_fusions)
        )
        self.box = nn.Conv2d(in_channels, 4, kernel_size=1)
        self.centerness = nn.Conv2d(in_channels, 1, kernel_size=1)
        self.scales = nn.Parameter(torch.ones(num_levels))
        for layer in (self.box, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.get_parameter("bias"))

    @property
    def reads_text(self) -> bool:
        """Whether outputs depend on the text."""
        return len(self.fusions) > 0

    def forward(
        self, levels: list[Tensor], text: Tensor, mask: Tensor, is_causal: bool = False
    ) -> dict[str, Tensor | None]:
        """Images and their captions -> outputs for all K = sum H_l W_l anchors.

        Args:
            levels: pyramid levels of (B, C, H_l, W_l), finest first.
            text: (B, T, text_width) states of tokens.
            mask: (B, T) bool, False for padding.
            is_causal: whether a token attends only to those before it, and images to none.

        Returns:
            ``regions`` (B, K, C), ``deltas`` (B, K, 4) and ``centerness`` (B, K) logits, all levels
            joined; ``tokens`` (B, T, text_width), the fused text, or None without fusion.
        """
        tokens = None
        for i, image_layer in enumerate(self.image_layers):
            if self.reads_text:
                levels, tokens = self._fused(self.fusions[i], levels, text, mask, not is_causal)
                text = tokens = read_text(self.text_layers[i], tokens, mask, is_causal)
            levels = image_layer(levels)
        deltas = [self.box(x) * scale for x, scale in zip(levels, self.scales, strict=True)]
        return {
            "regions": join_levels(levels),
            "deltas": join_levels(deltas),
            "centerness": join_levels([self.centerness(x) for x in levels]).squeeze(-1),
            "tokens": tokens,
        }

    def _fused(
        self, fusion: nn.Module, levels: list[Tensor], text: Tensor, mask: Tensor, both_ways: bool
    ) -> tuple[list[Tensor], Tensor]:
        joined = join_levels(levels)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            joined, text = checkpoint(fusion, joined, text, mask, both_ways, use_reentrant=False)
        else:
            joined, text = fusion(joined, text, mask, both_ways)
        return split_levels(joined, levels), text

    def locations(self, levels: list[Tensor]) -> list[Tensor]:
        """What the text of each block attends to if images do not attend to text, for `read`.

        It is computed once for an image whose caption is written token by token.

        Args:
            levels: pyramid levels of (B, C, H_l, W_l), finest first.

        Returns:
            (B, K, C) for each block with a fusion, all levels joined.
        """
        found = []
        for fusion, image_layer in zip(self.fusions, self.image_layers, strict=True):
            found.append(join_levels(levels))
            normed = cast(Fusion, fusion).image_norm(found[-1])
            levels = image_layer(split_levels(normed, levels))
        return found

    def read(self, locations: list[Tensor], text: Tensor, mask: Tensor) -> Tensor:
        """(B, T, text_width) fused tokens, the same as of ``forward`` with ``is_causal``."""
        blocks = zip(self.fusions, self.text_layers, locations, strict=True)
        for fusion, text_layer, image in blocks:
            _, text = fusion(image, text, mask, both_ways=False)
            text = read_text(text_layer, text, mask, is_causal=True)
        return text


class BertLayer(nn.TransformerEncoderLayer):
    """A layer of BERT, with fresh weights.

    GLIP's clamps of activations to +-50,000 are skipped: with bfloat16 or float32 none is needed.

    Args:
        width: channels of a token.
        num_heads: attention heads.
        hidden: hidden channels.
        dropout: of attention weights and of both sums.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__(
            width,
            num_heads,
            hidden,
            dropout,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        self.dropout.p = 0.0  # BERT has none after the activation


class DynamicBlock(nn.Module):
    """Attention over space (deformable convolutions), levels (scale) and channels (task).

    Args:
        channels: of every level.
        num_groups: groups of GroupNorm.
    """

    def __init__(self, channels: int = 256, num_groups: int = 16) -> None:
        super().__init__()
        self.from_coarser = ModulatedConv(channels, num_groups)
        self.from_same = ModulatedConv(channels, num_groups)
        self.from_finer = ModulatedConv(channels, num_groups, stride=2)
        self.offsets_and_mask = nn.Conv2d(channels, 3 * 9, kernel_size=3, padding=1)
        self.scale_attention = nn.Conv2d(channels, 1, kernel_size=1)
        self.task_attention = DynamicReLU(channels)
        nn.init.normal_(self.scale_attention.weight, std=0.01)
        nn.init.zeros_(self.scale_attention.get_parameter("bias"))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels of (B, C, H_l, W_l), finest first -> the same sizes."""
        return [self.task_attention(self._mixed(levels, number)) for number in range(len(levels))]

    def _mixed(self, levels: list[Tensor], number: int) -> Tensor:
        """The mean of a level's branches: from itself and from its neighbours."""
        x = levels[number]
        offsets, mask = self.offsets_and_mask(x).split((18, 9), dim=1)
        mask = mask.sigmoid()
        branches = [self.from_same(x, offsets, mask)]
        if number > 0:
            branches.append(self.from_finer(levels[number - 1], offsets, mask))
        if number + 1 < len(levels):
            coarser = levels[number + 1]
            size = coarser.shape[-2:]
            branch = self.from_coarser(
                coarser, first_places(offsets, size), first_places(mask, size)
            )
            branches.append(
                F.interpolate(branch, size=x.shape[-2:], mode="bilinear", align_corners=True)
            )
        weighted = [branch * self._scale(branch) for branch in branches]
        return torch.stack(weighted).mean(dim=0)

    def _scale(self, branch: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, 1, 1) in [0.5, 1]."""
        mean = branch.mean(dim=(2, 3), keepdim=True)
        return F.hardsigmoid(F.relu(self.scale_attention(mean)))


class ModulatedConv(nn.Module):
    """A modulated deformable 3x3 convolution and GroupNorm.

    Args:
        channels: of input and output.
        num_groups: groups of GroupNorm.
        stride: of the convolution.
    """

    def __init__(self, channels: int, num_groups: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        # Only holds weights; it never runs as an ordinary convolution.
        self.conv = nn.Conv2d(channels, channels, kernel_size=3)
        nn.init.zeros_(self.conv.get_parameter("bias"))
        self.norm = nn.GroupNorm(num_groups, channels)

    def forward(self, x: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
        """See `deformable_conv`."""
        # Offsets are in pixels: half precision would round them to a quarter of one.
        with torch.autocast(x.device.type, enabled=False):
            sampled = deformable_conv(
                x.float(),
                offsets.float(),
                mask.float(),
                self.conv.weight.float(),
                self.training,
                bias=self.conv.get_parameter("bias").float(),
                stride=self.stride,
            )
        return self.norm(sampled)


class DynamicReLU(nn.Module):
    """max(a1 x + b1, a2 x + b2), with factors for each channel from the means of all channels.

    Args:
        channels: of the input.
        reduction: of channels in the hidden layer.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, 4 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        factors = self.layers(x.mean(dim=(2, 3)))[..., None, None] - 0.5
        a1, b1, a2, b2 = factors.chunk(4, dim=1)
        return torch.maximum((2 * a1 + 1) * x + b1, 2 * a2 * x + b2)


def read_text(layer: nn.Module, text: Tensor, mask: Tensor, is_causal: bool = False) -> Tensor:
    """A `BertLayer` on (B, T, width) tokens -> the same shape.

    Args:
        layer: the layer.
        text: states of tokens.
        mask: (B, T) bool, False for padding.
        is_causal: whether a token attends only to itself and those before it.
    """
    later = mask.new_ones(mask.shape[1], mask.shape[1]).triu(1) if is_causal else None
    return layer(text, src_mask=later, src_key_padding_mask=~mask)


def first_places(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first numbers of each image of (B, C, H, W), in memory's order, as (B, C, *size).

    A block's offsets have the size of its level, and its branch from the coarser level needs fewer.
    DynamicHead's kernel for GPUs reads as many numbers as it needs from the start of memory, so
    offsets of other locations and taps are used. The released weights of GLIP are trained with this
    (microsoft/DynamicHead#25): offsets of the right locations would give other logits.
    """
    count = x.shape[1] * size[0] * size[1]
    return x.flatten(1)[:, :count].reshape(len(x), x.shape[1], *size)


def split_levels(joined: Tensor, like: list[Tensor]) -> list[Tensor]:
    """(B, K, C), the inverse of `join_levels` -> levels with the sizes of ``like``."""
    sizes = [x.shape[-2:] for x in like]
    parts = joined.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
    return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
