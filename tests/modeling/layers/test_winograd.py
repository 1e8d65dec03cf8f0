"""Winograd's method against plain sums in double precision."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from detclip2.modeling.layers import winograd
from detclip2.modeling.layers.winograd import transforms, winograd_conv


def kernel(bias=True, channels=(5, 7)):
    torch.manual_seed(0)
    return torch.randn(channels[1], channels[0], 3, 3), torch.randn(channels[1]) if bias else None


def image(size, batch=1, channels=5):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (7, 5), (20, 31), (1, 40)])
def test_values(size, bias, batch):
    (weight, bias), x = kernel(bias), image(size, batch)
    plain = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), 1, 1)
    [found] = winograd_conv([x], weight, bias)
    assert found.shape == plain.shape
    error = found - plain
    assert error.abs().max() < 2e-4 * 45**0.5, "the sum of 45 products of normal numbers"
    assert error.square().mean().sqrt() < 2e-5 * 45**0.5


def test_several_maps_are_independent_and_share_the_transformed_kernel(monkeypatch):
    (weight, bias), maps = kernel(), [image((20, 31)), image((7, 5)), image((2, 2))]
    with FlopCounterMode(display=False) as single:
        expected = [winograd_conv([x], weight, bias)[0] for x in maps]
    with FlopCounterMode(display=False) as together:
        found = winograd_conv(maps, weight, bias)
    assert all(map(torch.equal, found, expected))
    of_kernel = 2 * 64 * 9 * weight[0, 0].numel() // 9 * weight.shape[0] * weight.shape[1]
    assert single.get_total_flops() - together.get_total_flops() == 2 * of_kernel


def test_multiplications():
    """64 a tile of 36 places and pair of channels, where plain sums take 324."""
    weight, _ = kernel(channels=(80, 96))
    with FlopCounterMode(display=False) as counter:
        winograd_conv([image((25, 36), channels=80)], weight, None)
    tiles = 5 * 6
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.aten.bmm] == 2 * 64 * tiles * 80 * 96
    transformed = 64 * 64 * tiles * 80 + 36 * 64 * tiles * 96 + 64 * 9 * 80 * 96
    assert counts[torch.ops.aten.mm] == 2 * transformed


@pytest.mark.parametrize("at_once", [1, 12, 1000])
def test_parts_do_not_matter(monkeypatch, at_once):
    (weight, bias), x = kernel(), image((20, 31), 2)
    [expected] = winograd_conv([x], weight, bias)
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", at_once)
    torch.testing.assert_close(winograd_conv([x], weight, bias)[0], expected, atol=1e-4, rtol=0)


def test_memory_formats():
    (weight, bias), x = kernel(), image((20, 31), 2)
    [expected] = winograd_conv([x], weight, bias)
    assert expected.permute(0, 2, 3, 1).stride(-1) == 1
    assert torch.equal(
        winograd_conv([x.to(memory_format=torch.channels_last)], weight, bias)[0], expected
    )
    moved = image((21, 32), 2)
    moved[..., 1:, 1:] = x
    assert torch.equal(winograd_conv([moved[..., 1:, 1:]], weight, bias)[0], expected)


def test_the_transforms_are_those_of_the_paper_up_to_scales():
    """A tile of outputs is exact for polynomials: here of one axis, in double precision."""
    of_input, of_output, of_kernel = (matrix.double() for matrix in transforms())
    torch.manual_seed(0)
    tile, taps = torch.randn(8, 8).double(), torch.randn(3, 3).double()
    values = of_output @ ((of_kernel @ taps.flatten()) * (of_input @ tile.flatten()))
    plain = F.conv2d(tile[None, None], taps[None, None]).flatten()
    torch.testing.assert_close(values, plain, atol=1e-5, rtol=0)  # matrices are in float32
    assert (of_input.shape, of_output.shape, of_kernel.shape) == ((64, 64), (36, 64), (64, 9))
