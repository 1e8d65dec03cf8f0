"""The convolution by Winograd's method against plain sums in double precision."""

import pytest
import torch
from torch.nn import functional as F

from detclip2.modeling.layers import conv3x3
from detclip2.modeling.layers.conv3x3 import MIN_PLACES, Conv3x3

needs_nnpack = pytest.mark.skipif(
    not torch.backends.nnpack.is_available(), reason="this build of PyTorch has no NNPACK"
)


@pytest.fixture(params=["NNPACK", "ours"])
def calls(request, monkeypatch):
    """Counts calls of the fast path: NNPACK's, or ours of processors with AVX-512."""
    is_ours = request.param == "ours"
    monkeypatch.setattr(conv3x3, "has_wide_vectors", lambda: is_ours)
    count = []
    owner, name = (conv3x3, "winograd_conv") if is_ours else (torch, "_nnpack_spatial_convolution")
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        count.append(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return count


def conv(bias=True, channels=(64, 80)):
    torch.manual_seed(0)
    return Conv3x3(*channels, bias=bias).eval()


def image(batch_size=1, size=(21, 30)):
    return torch.randn(batch_size, 64, *size, generator=torch.Generator().manual_seed(1))


@needs_nnpack
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(20, 20), (21, 30), (7, 61), (1, 400)])
def test_values(calls, batch_size, bias, size):
    layer, x = conv(bias), image(batch_size, size)
    with torch.no_grad():
        found = layer(x)
        bias = layer.bias.double() if bias else None
        expected = F.conv2d(x.double(), layer.weight.double(), bias, padding=1)
    assert len(calls) == 1
    error = (found - expected).abs() / expected.std()
    assert error.max() < 1e-4
    assert error.square().mean().sqrt() < 1e-5


@needs_nnpack
def test_the_memory_layout_does_not_matter(calls):
    layer, x = conv(), image(2)
    with torch.no_grad():
        assert torch.equal(layer(x.to(memory_format=torch.channels_last)), layer(x))
        moved = image(2, (22, 31))[..., 1:, 1:]
        assert torch.equal(layer(moved), layer(moved.contiguous()))


def test_training_uses_the_plain_convolution(calls):
    layer, x = conv(), image()
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert torch.equal(layer(x), plain)
    layer(x).sum().backward()
    with torch.no_grad():  # a pass without gradients must equal the later one with gradients
        assert torch.equal(layer.train()(x), plain)
    assert not calls


@pytest.mark.parametrize("case", ["off", "small", "narrow", "double", "autocast"])
def test_unsupported_inputs_use_the_plain_convolution(calls, case):
    layer, x = conv(), image()
    if case == "small":
        x = image(size=(1, MIN_PLACES - 1))
    if case == "narrow":
        layer = conv(channels=(64, 4))
    if case == "double":
        layer, x = layer.double(), x.double()
    with (
        torch.no_grad(),
        torch.backends.nnpack.flags(enabled=case != "off"),
        torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"),
    ):
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
    assert not calls


@needs_nnpack
def test_levels_share_the_transformed_kernel_where_it_is_ours(calls, request):
    layer = conv()
    maps = [image(size=size) for size in ((24, 30), (6, 8), (3, 4))]
    with torch.no_grad():
        found = layer.over_levels(maps)
        fast_levels = len(calls)
        single = [layer(x) for x in maps]
    is_ours = request.node.callspec.params["calls"] == "ours"
    assert fast_levels == 1
    assert len(found) == 3
    assert len(calls) == 2
    for ours, other in zip(found, single, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=0)
        assert torch.equal(ours, other) or is_ours  # small maps alone take plain sums


def test_like_shares_the_parameters():
    other = torch.nn.Conv2d(64, 80, 3, padding=1)
    own = Conv3x3.like(other)
    assert own.weight is other.weight
    assert own.bias is other.bias
    assert Conv3x3.like(torch.nn.Conv2d(64, 80, 3, padding=1, bias=False)).bias is None
