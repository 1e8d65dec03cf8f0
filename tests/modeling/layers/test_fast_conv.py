"""Fast convolutions of timm's networks: the results and gradients of the plain ones."""

import copy
import io

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from detclip2.modeling.backbone import TimmBackbone
from detclip2.modeling.layers.fast_conv import FastConv2d, FoldedNorm, use_fast_depthwise

LITE = "tf_efficientnet_lite0"


def fast_and_plain(kind, **arguments):
    torch.manual_seed(0)
    plain = kind(6, 6, groups=6, **arguments)
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    assert isinstance(fast, FastConv2d)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    return fast, plain


def gradients(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(9, 9), (7, 12), (3, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride"), [(5, 1), (5, 2), (7, 1), (3, 2), ((3, 5), (2, 1)), (4, 1), (9, 3)]
)
def test_results_and_gradients_are_those_of_the_plain_layer(kind, bias, size, kernel, stride):
    arguments = {"kernel_size": kernel, "stride": stride, "bias": bias}
    if kind is nn.Conv2d:
        arguments["padding"] = 4
    fast, plain = fast_and_plain(kind, **arguments)
    x = torch.randn(2, 6, *size).contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(gradients(fast, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradients_under_autocast_are_those_of_float32_up_to_bfloat16():
    fast, plain = fast_and_plain(nn.Conv2d, kernel_size=5, stride=2, padding=2)
    x = torch.randn(2, 6, 9, 9)
    exact = gradients(plain, x)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = fast(x)
        ours = gradients(fast, x)
        assert torch.equal(lowered, plain(x))
    for got, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.float(), expected, atol=0.02 * expected.abs().max(), rtol=0)
    assert ours[-1].dtype == torch.float32


def test_layers_that_do_not_gain_stay_as_they_are():
    unchanged = [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 1, stride=2, groups=6),
        nn.Conv2d(6, 12, 5, groups=6),
        nn.Conv2d(6, 6, 5),
        nn.Conv2d(6, 6, 5, dilation=2, groups=6),
        nn.Conv2d(6, 6, 5, padding=2, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 5, padding="same", groups=6),
    ]
    for layer in unchanged:
        use_fast_depthwise(layer)
        assert type(layer) is nn.Conv2d


class Operations(TorchDispatchMode):
    """Shapes of the weights of backward convolutions, and whether a strided one was bfloat16."""

    def __init__(self):
        super().__init__()
        self.weight_gradients = []
        self.strided_inputs = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            wanted = args[-1]
            if wanted[1] and args[9] > 1:
                self.weight_gradients.append(tuple(args[2].shape[-2:]))
            if wanted[0] and args[9] > 1 and max(args[4]) > 1:
                self.strided_inputs.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_only_gradients_with_fast_kernels_are_computed():
    torch.manual_seed(0)
    model = timm.create_model(LITE, features_only=True)
    use_fast_depthwise(model)
    operations = Operations()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(x.float().sum() for x in model(torch.randn(1, 3, 64, 64)))
    with operations:
        loss.backward()
    assert set(operations.weight_gradients) == {(3, 3)}
    assert set(operations.strided_inputs) == {torch.float32}


def trained(fold, monkeypatch):
    """A backbone with frozen norms that are not the identity, with or without folding."""
    if not fold:
        monkeypatch.setattr("detclip2.modeling.backbone.fold_norms", lambda model: None)
    torch.manual_seed(0)
    backbone = TimmBackbone(LITE, drop_path_rate=0.0, norm_outputs=False, freeze_norms=True)
    monkeypatch.undo()
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, BatchNormAct2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.uniform_(-0.5, 0.5, generator=generator)
    return backbone.double()


def test_folded_norms_give_the_features_and_gradients_of_frozen_ones(monkeypatch):
    plain, folded = trained(False, monkeypatch), trained(True, monkeypatch)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    assert any(isinstance(module, FoldedNorm) for module in folded.modules())
    assert not any(isinstance(module, FoldedNorm) for module in plain.modules())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    found = []
    for backbone in (plain, copy.deepcopy(folded)):
        features = backbone.train()(x)
        loss = sum((y * y.detach().cos()).sum() for y in features.values())
        loss.backward()
        weights = {n: p.grad for n, p in backbone.named_parameters() if p.requires_grad}
        found.append((features, weights))
    for ours, theirs in zip(*found, strict=True):
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            torch.testing.assert_close(ours[name], expected, atol=1e-9, rtol=1e-9)


def test_inference_and_exported_weights_do_not_change_by_folding(monkeypatch):
    plain, folded = trained(False, monkeypatch), trained(True, monkeypatch)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(folded.eval()(x).values(), plain.eval()(x).values(), strict=True):
            assert torch.equal(ours, theirs)
    for name, value in plain.state_dict().items():
        assert torch.equal(folded.state_dict()[name], value)


def test_a_copy_folds_its_own_norms(monkeypatch):
    folded = trained(True, monkeypatch)
    copied = copy.deepcopy(folded)
    file = io.BytesIO()
    torch.save(copied, file)
    file.seek(0)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = folded.train()(x)["c5"]
    for other in (copied, torch.load(file, weights_only=False)):
        for module in other.modules():
            if isinstance(module, BatchNormAct2d):
                module.bias.data.add_(1.0)
        assert torch.equal(folded(x)["c5"], before)
        assert not torch.equal(other.train()(x)["c5"], before)


def test_training_saves_no_output_of_a_convolution_for_its_norm(monkeypatch):
    numbers = []
    for fold in (False, True):
        backbone = trained(fold, monkeypatch).train()
        saved = []
        with saved_tensors_hooks(lambda x, s=saved: s.append(x) or x, lambda x: x):
            features = backbone(torch.randn(1, 3, 64, 64, dtype=torch.float64))
        images = [x for x in saved if x.ndim == 4 and len(x) == 1]  # others are weights
        once = {x.data_ptr(): x.numel() for x in images}
        numbers.append(sum(once.values()))
        del features
    assert numbers[1] < 0.7 * numbers[0]
