"""The mask head: masks of boxes from pixels and words."""

import pytest
import torch
from detectron2.structures import Boxes
from torch.nn import functional as F
from torchvision.ops import roi_align

from detclip2.modeling.heads.mask_head import Hourglass, MaskHead, Residual

CHANNELS, TEXT = 8, 6


def head(**arguments):
    torch.manual_seed(0)
    made = MaskHead(CHANNELS, (8, 16), TEXT, resolution=4, **arguments)
    torch.nn.init.normal_(made.token_head.text_bias)
    torch.nn.init.constant_(made.token_head.log_scale, 0.3)
    return made


def seen(batch_size=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch_size, 3, 128, 128, generator=generator)
    pyramid = [torch.randn(batch_size, CHANNELS, n, n, generator=generator) for n in (16, 8)]
    return images, pyramid


def pooled(mask_head, boxes):
    """Features of boxes: those of the pyramid, and those of the image after two convolutions."""
    images, pyramid = seen()
    first, _, second, _ = mask_head.stem
    stem = F.conv2d(images, first.weight, first.bias, stride=2, padding=1).clamp(min=0)
    stem = F.conv2d(stem, second.weight, second.bias, padding=1).clamp(min=0)
    corners = [box.tensor for box in boxes]
    details = roi_align(stem, corners, 4, spatial_scale=0.5, sampling_ratio=2, aligned=True)
    weight, bias = mask_head.stem_projection.weight[:, :, 0, 0], mask_head.stem_projection.bias
    details = torch.einsum("oc,nchw->nohw", weight, details) + bias[:, None, None]
    return mask_head.pooler(pyramid, boxes) + details


def test_a_mask_is_the_mean_of_the_logits_of_the_words():
    """Pixel x and token t: x . (W p/2 + b) / exp(scale) + p . bias, with p of unit length."""
    mask_head = head()
    tokens = torch.randn(5, TEXT)
    weights = torch.zeros(5, 2)
    weights[1:4, 0] = 1 / 3
    weights[4, 1] = 1
    boxes = [Boxes([[8, 8, 40, 56]]), Boxes([[0, 0, 100, 90]])]
    masks = mask_head(*seen(), boxes, mask_head.words(tokens, weights))
    assert masks.shape == (2, 8, 8)
    pixels = pooled(mask_head, boxes)
    for hourglass in mask_head.hourglasses:
        pixels = hourglass(pixels).clamp(min=0)
    pixels = mask_head.upsample(pixels).clamp(min=0)
    of_words = mask_head.token_head
    for n, own in enumerate(([1, 2, 3], [4])):
        for row, column in ((0, 0), (3, 6), (7, 1)):
            logits = []
            for t in own:
                unit = tokens[t] / tokens[t].norm()
                factors = of_words.projection.weight @ (unit / 2) + of_words.projection.bias
                logit = pixels[n, :, row, column] @ factors / torch.tensor(0.3).exp()
                logits.append(logit + unit @ of_words.text_bias)
            expected = torch.stack(logits).mean()
            torch.testing.assert_close(masks[n, row, column], expected, atol=1e-5, rtol=1e-4)
    assert of_words.bias is None


def test_no_boxes():
    mask_head = head()
    words = mask_head.words(torch.randn(5, TEXT), torch.zeros(5, 0))
    masks = mask_head(*seen(), [Boxes([]), Boxes([])], words)
    assert masks.shape == (0, 8, 8)
    masks.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in mask_head.parameters())


@pytest.mark.parametrize("scales", [1, 2, 4])
@pytest.mark.parametrize("size", [(14, 14), (7, 5)])
def test_an_hourglass_adds_what_it_sees_at_coarser_scales(scales, size):
    """With weights of 0 each residual unit is a ReLU, and the sum that of a pyramid of maxima."""
    hourglass = Hourglass(4, scales, num_groups=0)
    for parameter in hourglass.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, *size)

    def expected(x, scales):
        coarse = F.max_pool2d(x, 2, ceil_mode=True).clamp(min=0)
        if scales > 1:
            coarse = expected(coarse, scales - 1)
        rows = torch.arange(x.shape[2]) * coarse.shape[2] // x.shape[2]
        columns = torch.arange(x.shape[3]) * coarse.shape[3] // x.shape[3]
        return x.clamp(min=0) + coarse[:, :, rows][:, :, :, columns]

    torch.testing.assert_close(hourglass(x), expected(x, scales))


def test_a_residual_unit_has_three_convolutions_of_dilation_1_3_1():
    unit = Residual(256, num_groups=0)
    convs = [layer for layer in unit.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(256, 128), (128, 128), (128, 256)]
    assert [(c.kernel_size, c.dilation) for c in convs] == [((3, 3), (d, d)) for d in (1, 3, 1)]
    x = torch.randn(1, 256, 14, 14)
    y = convs[2](convs[1](convs[0](x).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(unit(x), (x + y).clamp(min=0))
    with_norms = Residual(16, num_groups=4)
    assert sum(isinstance(layer, torch.nn.GroupNorm) for layer in with_norms.layers) == 3


def test_sizes_of_the_paper():
    """T and B: one hourglass of one scale, 14 -> 28."""
    mask_head = MaskHead()
    assert mask_head.mask_size == 28
    assert len(mask_head.hourglasses) == 1
    units = [m for m in mask_head.modules() if isinstance(m, Residual)]
    assert len(units) == 4
    assert len([m for m in Hourglass(8, 4, 0).modules() if isinstance(m, Residual)]) == 13
