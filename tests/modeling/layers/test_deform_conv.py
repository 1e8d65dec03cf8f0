"""The deformable convolution against torchvision's operator, in double precision."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import deform_conv2d

from detclip2.modeling.layers.deform_conv import conv_of_rows, deformable_conv


def inputs(size, reach, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(2, 3, *size)
    offsets = reach * normal(2, 18, *size)
    mask = normal(2, 9, *size).sigmoid()
    weight = normal(4, 3, 3, 3)
    return [t.requires_grad_() for t in (x, offsets, mask, weight)]


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 7)])
@pytest.mark.parametrize("reach", [0.3, 2.0, 1e4])
def test_values_and_gradients_equal_torchvision(size, reach):
    x, offsets, mask, weight = tensors = inputs(size, reach)
    ours = deformable_conv(x, offsets, mask, weight)
    theirs = deform_conv2d(x, offsets, weight, padding=1, mask=mask)
    torch.testing.assert_close(ours, theirs)
    direction = torch.linspace(-1, 1, ours.numel(), dtype=ours.dtype).view_as(ours)
    for our_grad, their_grad in zip(
        torch.autograd.grad((ours * direction).sum(), tensors),
        torch.autograd.grad((theirs * direction).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(our_grad, their_grad)


def test_integer_offsets_read_pixels():
    x, _, mask, weight = inputs((4, 5), 1)
    offsets = torch.zeros(2, 18, 4, 5, dtype=torch.float64)
    plain = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(deformable_conv(x, offsets, torch.ones_like(mask), weight), plain)
    offsets[:, 1::2] = 1  # one column to the right
    moved = deformable_conv(x, offsets, torch.ones_like(mask), weight)
    torch.testing.assert_close(moved[..., :-1], plain[..., 1:])


def test_samples_far_outside_are_zero():
    x, offsets, mask, weight = inputs((3, 3), 1)
    for value in (1e3, -1e3, 1e12):
        assert deformable_conv(x, torch.full_like(offsets, value), mask, weight).abs().max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 7), (30, 40)])
@pytest.mark.parametrize("reach", [0.3, 2.0, 1e4])
def test_values_without_gradients_equal_torchvision(size, reach):
    x, offsets, mask, weight = (t.detach() for t in inputs(size, reach))
    theirs = deform_conv2d(x, offsets, weight, padding=1, mask=mask)
    for ours in (conv_of_rows(x, offsets, mask, weight), plain(x, offsets, mask, weight)):
        torch.testing.assert_close(ours, theirs)


def plain(*tensors):
    with torch.enable_grad():
        return deformable_conv(*tensors)


def test_training_has_the_same_values_with_and_without_gradients():
    tensors = [t.detach().float() for t in inputs((20, 30), 1)]
    with torch.no_grad():
        assert torch.equal(deformable_conv(*tensors, training=True), plain(*tensors))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_offsets_read_zero(value):
    x, offsets, mask, weight = (t.detach() for t in inputs((4, 5), 1))
    offsets[:, :, 2, 3] = value
    out = conv_of_rows(x, offsets, mask, weight)
    assert out[..., 2, 3].abs().max() == 0
    assert out.isfinite().all()


def test_memory_without_gradients_does_not_hold_all_taps():
    """Of 64 x 64 locations with 9 x C taps each, at most one chunk is in memory."""
    x, offsets, mask, weight = (t.detach().float() for t in inputs((64, 64), 1))
    x, weight = x.repeat(1, 16, 1, 1), weight.repeat(1, 16, 1, 1)

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in tree_leaves(out):
                if isinstance(t, torch.Tensor):
                    self.bytes = max(self.bytes, t.untyped_storage().nbytes())
            return out

    with torch.no_grad(), Largest() as largest:
        deformable_conv(x, offsets, mask, weight)
    all_taps = 9 * x.numel() * x.element_size()
    assert largest.bytes < all_taps / 4


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 4), (30, 40)])
@pytest.mark.parametrize("grad", [False, True])
def test_stride_and_bias_equal_torchvision(size, grad):
    x, _, _, weight = inputs(size, 2.0)
    small = tuple(-(-side // 2) for side in size)
    _, offsets, mask, _ = inputs(small, 2.0, seed=1)
    bias = torch.tensor([1.0, -2, 3, 0.5], dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        ours = deformable_conv(x, offsets, mask, weight, bias=bias, stride=2)
        theirs = deform_conv2d(x, offsets, weight, bias, stride=2, padding=1, mask=mask)
    assert ours.shape == (2, 4, *small)
    torch.testing.assert_close(ours, theirs)
