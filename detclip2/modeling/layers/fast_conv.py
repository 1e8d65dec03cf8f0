"""Convolutions of timm's networks that train faster on CPUs, with the same weights and results."""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from detclip2.modeling.layers.depthwise import depthwise_conv, gains

# Type of a timm module -> the names of its convolutions, and of the norm behind each.
_PAIRS = {
    "EfficientNetFeatures": (("conv_stem", "bn1"),),
    "ConvBnAct": (("conv", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


class FastConv2d(nn.Conv2d):
    """A convolution that folds a frozen norm in training, and has fast depthwise gradients.

    Inference and exported graphs compute what `nn.Conv2d` and the norm compute.
    """

    # The norm, in a tuple: as an attribute it would be a submodule with weights of its own.
    _norm: tuple[nn.Module, ...] = ()

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.training and self._norm:
            weight, bias = _folded(weight, bias, self._norm[0])
        plain = x.device.type != "cpu" or torch.compiler.is_compiling()
        if plain or not torch.is_grad_enabled() or not gains(self):
            return super()._conv_forward(x, weight, bias)
        return depthwise_conv(x, weight, bias, self.stride, self.padding)  # type: ignore[arg-type]


class FastConv2dSame(FastConv2d, Conv2dSame):
    """The same for timm's `Conv2dSame` (TensorFlow's padding)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        window = (list(self.kernel_size), list(self.stride), list(self.dilation))
        padded = pad_same(x, *window)
        return self._conv_forward(padded, self.weight, self.bias)


class FoldedNorm(BatchNormAct2d):
    """A frozen norm with activation, of which training leaves only the activation."""

    _conv: tuple[nn.Module, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self._conv[0].training:
            return self.act(self.drop(x))
        return super().forward(x)


_FAST: dict[type[nn.Module], type[FastConv2d]] = {
    nn.Conv2d: FastConv2d,
    Conv2dSame: FastConv2dSame,
}


def use_fast_depthwise(model: nn.Module) -> None:
    """Give the depthwise convolutions that gain by it a fast backward pass, in place."""
    for module in model.modules():
        if type(module) in _FAST and gains(module):  # type: ignore[arg-type]
            module.__class__ = _FAST[type(module)]


def fold_norms(model: nn.Module) -> None:
    """Fold frozen norms into their convolutions in training, in place.

    A pass over the activations is saved, forward and backward. The weights of the convolutions
    learn as before. Only the networks of timm's EfficientNet family are known well enough.

    Args:
        model: its norms are frozen.
    """
    for conv, norm in _pairs(model):
        known = type(conv) in _FAST or isinstance(conv, FastConv2d)
        if known and type(norm) is BatchNormAct2d:
            conv.__class__, norm.__class__ = _FAST.get(type(conv), type(conv)), FoldedNorm
            conv.__dict__["_norm"], norm.__dict__["_conv"] = (norm,), (conv,)


def _pairs(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    for module in model.modules():
        for conv, norm in _PAIRS.get(type(module).__name__, ()):
            yield getattr(module, conv), getattr(module, norm)


def _folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that gives what a frozen norm makes of its output."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if bias is not None:
        shift = shift + bias * scale
    return weight * scale[:, None, None, None], shift
