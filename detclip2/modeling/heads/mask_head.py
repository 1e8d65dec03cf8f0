"""The mask of a box, as the match of its pixels with the words that named it (GLIPv2)."""

from collections.abc import Sequence

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.modeling.heads.token_head import TokenHead

STEM_STRIDE = 2


class MaskHead(nn.Module):
    """Mask R-CNN's head with words in place of classes, for names and references alike.

    The last layer of Mask R-CNN's head, from a pixel to classes, is a product of the pixel with the
    tokens after fusion. A mask of a phrase is the mean of the logits of its tokens. The layers are
    those of GLIP's released code (microsoft/GLIP 9dda9558, roi_heads/mask_head); the paper has no
    more than the idea.

    Features are those of the pyramid before fusion, which do not depend on the caption, plus those
    of a stem, two convolutions on the image, which GLIP's code does not have: the pyramid's finest
    cells have 8 px, too many for the outlines of small objects (measured in docs/masks.md).

    Args:
        in_channels: channels of every level.
        strides: of the levels, finest first.
        text_width: channels of a token.
        stem_channels: channels of the stem.
        num_hourglasses: 1 in GLIPv2-T and -B, 4 in -H.
        scales: how often an hourglass halves its input: 1 in -T and -B, 4 in -H.
        resolution: rows and columns of a box's features; its mask has twice as many, `mask_size`.
        num_groups: groups of GroupNorm after each convolution; 0: none, as in the released code.
    """

    def __init__(
        self,
        in_channels: int = 256,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        text_width: int = 768,
        stem_channels: int = 32,
        num_hourglasses: int = 1,
        scales: int = 1,
        resolution: int = 14,
        num_groups: int = 0,
    ) -> None:
        super().__init__()
        self.mask_size = 2 * resolution
        self.pooler = ROIPooler(resolution, [1 / stride for stride in strides], 0, "ROIAlignV2")
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_channels, kernel_size=3, stride=STEM_STRIDE, padding=1),
            nn.ReLU(),
            nn.Conv2d(stem_channels, stem_channels, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        # Two samples a cell and axis, as a large box has many of the stem's cells.
        self.stem_pooler = ROIPooler(resolution, [1 / STEM_STRIDE], 2, "ROIAlignV2")
        self.stem_projection = nn.Conv2d(stem_channels, in_channels, kernel_size=1)
        self.hourglasses = nn.ModuleList(
            Hourglass(in_channels, scales, num_groups) for _ in range(num_hourglasses)
        )
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels, kernel_size=2, stride=2)
        self.token_head = TokenHead(text_width, in_channels, prior=None)

    def forward(
        self, images: Tensor, levels: list[Tensor], boxes: list[Boxes], words: Tensor
    ) -> Tensor:
        """The masks of N boxes, as logits.

        Args:
            images: (B, 3, H, W), normalised.
            levels: pyramid levels of (B, C, H_l, W_l), finest first.
            boxes: of each of B images, N in all, XYXY px of the padded image.
            words: (N, C + 1), see `words`.

        Returns:
            (N, mask_size, mask_size), each to be stretched over its box.
        """
        pixels = self.pooler(levels, boxes)
        pixels = pixels + self.stem_projection(self.stem_pooler([self.stem(images)], boxes))
        for hourglass in self.hourglasses:
            pixels = F.relu(hourglass(pixels))
        pixels = F.relu(self.upsample(pixels))
        factors, bias = words[:, :-1], words[:, -1]
        return torch.einsum("nchw,nc->nhw", pixels, factors) + bias[:, None, None]

    def words(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """What the pixels of a phrase's box are multiplied by, and what is added.

        The logit is linear in these, so that of the mean token is the mean of the tokens' logits.

        Args:
            tokens: (T, text_width) states of tokens after fusion.
            weights: (T, M) for each of M phrases the weights of tokens, which sum to 1.

        Returns:
            (M, C + 1).
        """
        factors, bias = self.token_head.columns(tokens)
        return weights.to(factors.dtype).T @ torch.cat([factors, bias[:, None]], dim=1)


class Hourglass(nn.Module):
    """Features of several scales in one (arXiv 1603.06937, fig. 3).

    Args:
        channels: of input and output.
        scales: how often the input is halved.
        num_groups: see `MaskHead`.
    """

    def __init__(self, channels: int, scales: int, num_groups: int) -> None:
        super().__init__()
        self.same = Residual(channels, num_groups)
        self.before = Residual(channels, num_groups)
        self.coarse = (
            Hourglass(channels, scales - 1, num_groups)
            if scales > 1
            else Residual(channels, num_groups)
        )
        self.after = Residual(channels, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        # An odd size is rounded up, so that 14 can be halved 4 times.
        coarse = F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)
        coarse = self.after(self.coarse(self.before(coarse)))
        return self.same(x) + F.interpolate(coarse, size=x.shape[-2:], mode="nearest")


class Residual(nn.Module):
    """Three convolutions beside a connection that skips them.

    All are 3x3, with dilations 1, 3, 1: GLIP's code gives the sizes 1, 3, 1 of a bottleneck to the
    argument for the dilation.

    Args:
        channels: of input and output; half as many between the convolutions.
        num_groups: see `MaskHead`.
    """

    def __init__(self, channels: int, num_groups: int) -> None:
        super().__init__()
        widths = (channels, channels // 2, channels // 2, channels)
        layers: list[nn.Module] = []
        for i, dilation in enumerate((1, 3, 1)):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, padding=dilation, dilation=dilation)
            norm = nn.GroupNorm(num_groups, widths[i + 1]) if num_groups else nn.Identity()
            layers += [conv, norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.relu(x + self.layers(x))
