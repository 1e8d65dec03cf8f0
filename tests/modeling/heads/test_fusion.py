"""Deep fusion against its definition with whole matrices, head by head."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detclip2.modeling.heads import fusion as module
from detclip2.modeling.heads.fusion import Fusion

IMAGE, TEXT, WIDTH, HEADS = 6, 10, 12, 3


def fusion(dropout=0.0):
    torch.manual_seed(0)
    layer = Fusion(IMAGE, TEXT, WIDTH, HEADS, dropout=dropout, initial_scale=0.25)
    for parameter in layer.parameters():  # biases and scales are not at their simple first values
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.double()


def inputs(places=7, tokens=5):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, places, IMAGE, generator=generator, dtype=torch.float64)
    text = torch.randn(2, tokens, TEXT, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[1, tokens - 2 :] = False
    return image, text, mask


def by_definition(layer, image, text, mask, drop=None):
    """With queries, keys and values of every head; `drop` changes the attention weights."""
    drop = drop or (lambda weights: weights)
    image, text = layer.image_norm(image), layer.text_norm(text)

    def heads(x):
        return x.unflatten(2, (HEADS, WIDTH // HEADS)).transpose(1, 2)  # (B, heads, ., d)

    query, key = heads(layer.query(image)), heads(layer.key(text))
    logits = query @ key.mT / (WIDTH / HEADS) ** 0.5  # (B, heads, K, T)
    over_tokens = logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=3)
    to_image = drop(over_tokens) @ heads(layer.text_value(text))
    to_text = drop(logits.softmax(dim=2)).mT @ heads(layer.image_value(image))
    to_image, to_text = (x.transpose(1, 2).flatten(2) for x in (to_image, to_text))
    return (
        image + layer.image_scale * layer.image_out(to_image),
        text + layer.text_scale * layer.text_out(to_text),
    )


@pytest.mark.parametrize("sizes", [(7, 5), (1, 3), (40, 3)])
def test_values_and_gradients_equal_the_definition(sizes):
    layer = fusion()
    image, text, mask = inputs(*sizes)
    image.requires_grad_(), text.requires_grad_()
    leaves = [image, text, *layer.parameters()]
    results = layer(image, text, mask), by_definition(layer, image, text, mask)
    gradients = []
    for result in results:
        loss = sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in result)
        gradients.append(torch.autograd.grad(loss, leaves))
    for ours, theirs in zip(
        (*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sizes", [(7, 5), (1, 3), (40, 3)])
@pytest.mark.parametrize("elements", [1, 30, 10**6])
def test_inference_in_parts_equals_the_definition(sizes, elements, monkeypatch):
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", elements)
    monkeypatch.setattr(Fusion, "_sums_of_softmax", None)  # the way of training is not taken
    layer = fusion(dropout=0.5).eval()
    image, text, mask = inputs(*sizes)
    with torch.no_grad():
        results = layer(image, text, mask), by_definition(layer, image, text, mask)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("factor", [1e4, 1e30])
def test_inference_with_large_logits_takes_the_way_of_training(factor):
    layer = fusion().eval().float()
    image, text, mask = inputs()
    with torch.no_grad():
        layer.query.weight.mul_(factor)
        arguments = image.float(), text.float(), mask
        normalised = layer.image_norm(arguments[0]), layer.text_norm(arguments[1]), mask
        assert layer._sums_of_exponentials(*normalised, both_ways=True) is None
        results = layer(*arguments)
        expected = layer._sums_of_softmax(*normalised, both_ways=True)
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.isfinite().all()
        assert torch.equal(ours, theirs)


def test_half_precision_takes_the_way_of_training(monkeypatch):
    """exp of a logit beyond 11 is infinite in float16."""
    monkeypatch.setattr(Fusion, "_sums_of_exponentials", None)
    layer = fusion().eval().float()
    image, text, mask = inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(image.float(), text.float(), mask)


def test_the_sums_start_from_the_normalised_inputs():
    layer = fusion()
    torch.nn.init.zeros_(layer.image_scale)
    torch.nn.init.zeros_(layer.text_scale)
    image, text, mask = inputs()
    fused_image, fused_text = layer(image, text, mask)
    torch.testing.assert_close(fused_image, layer.image_norm(image))
    torch.testing.assert_close(fused_text, layer.text_norm(text))


def test_padding_tokens_change_nothing():
    layer = fusion()
    image, text, mask = inputs()
    other = text.clone()
    other[1, 3:] += 5
    a, b = layer(image, text, mask), layer(image, other, mask)
    torch.testing.assert_close(a[0], b[0])
    torch.testing.assert_close(a[1][mask], b[1][mask])
    short = layer(image[1:], text[1:, :3], mask[1:, :3])
    torch.testing.assert_close(a[0][1:], short[0])
    torch.testing.assert_close(a[1][1:, :3], short[1])


def test_dropout_is_of_attention_weights(monkeypatch):
    """The rest of a dropped weight's row is scaled, so that its sum is not 1 any more."""
    layer = fusion(dropout=0.5).train()
    image, text, mask = inputs()

    def drop(x, *args):
        return 2 * x * (torch.arange(x.shape[-1]) % 2)  # each second token

    monkeypatch.setattr(F, "dropout", drop)
    ours = layer(image, text, mask)
    theirs = by_definition(layer, image, text, mask, drop)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_large_logits_stay_finite():
    layer = fusion().float()
    image, text, mask = inputs()
    with torch.no_grad():
        layer.query.weight.mul_(1e20)
        layer.key.weight.mul_(1e10)
    for result in layer(image.float(), text.float(), mask):
        assert result.isfinite().all()


def test_dropout_is_off_in_evaluation():
    layer = fusion(dropout=0.5).eval()
    image, text, mask = inputs()
    torch.testing.assert_close(layer(image, text, mask), by_definition(layer, image, text, mask))


def test_the_scale_starts_at_what_the_head_says():
    layer = Fusion(IMAGE, TEXT, WIDTH, HEADS, initial_scale=0.125)
    assert (layer.image_scale == 0.125).all()
    assert (layer.text_scale == 0.125).all()
    assert not layer.query.bias.any()
    assert layer.query.weight.abs().max() <= (6 / (IMAGE + WIDTH)) ** 0.5


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that operators return."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.number = max(self.number, leaf.numel())
        return result


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_memory_is_that_of_one_head(training, monkeypatch):
    """No queries or values of locations, and the attention of one head at a time."""
    places, tokens = 3000, 20
    layer = Fusion(IMAGE, TEXT, 240, 8).train(training)
    text, mask = torch.randn(1, tokens, TEXT), torch.ones(1, tokens, dtype=torch.bool)
    with Largest() as largest:
        layer(torch.randn(1, places, IMAGE), text, mask)
    assert largest.number == places * tokens
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 100 * tokens)
    with Largest() as largest:
        layer(torch.randn(1, places, IMAGE), text, mask)
    assert largest.number == places * (tokens if training else IMAGE)
