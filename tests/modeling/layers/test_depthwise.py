"""Depthwise convolutions: the same results, in another precision only where it pays."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from detclip2.modeling.layers.depthwise import DepthwiseConv2d, use_fast_depthwise


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_results_and_gradients_are_those_of_the_plain_layer(kind):
    torch.manual_seed(0)
    plain = kind(6, 6, 5, stride=2, padding=0, groups=6)
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    assert type(fast) is not kind
    assert isinstance(fast, kind)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 6, 9, 9)
    gradients = []
    for layer in (plain, fast):
        one = x.clone().requires_grad_()
        y = layer(one)
        y.square().sum().backward()
        gradients.append((y.detach(), one.grad, layer.weight.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_under_autocast_it_computes_in_float32_only_if_it_is_trained():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 5, padding=2, groups=8)
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    x = torch.randn(1, 8, 12, 12).bfloat16()
    exact = plain(x.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), plain(x))
        trained = fast(x.requires_grad_())
    assert trained.dtype == torch.bfloat16
    assert torch.equal(trained, exact)


def test_only_large_depthwise_layers_change():
    model = timm.create_model("tf_efficientnet_lite0")
    use_fast_depthwise(model)
    fast = {name for name, module in model.named_modules() if isinstance(module, DepthwiseConv2d)}
    assert "blocks.4.0.conv_dw" in fast
    assert all(name.endswith("conv_dw") for name in fast)
    for name, module in model.named_modules():
        if name.endswith("conv_dw"):
            assert (type(module).__module__.startswith("detclip2")) == (
                module.kernel_size == (5, 5)
            )
    copy.deepcopy(model)
