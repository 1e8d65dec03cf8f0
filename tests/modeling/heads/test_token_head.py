"""Token logits against their definition."""

import math

import torch

from detclip2.modeling.heads.token_head import TokenHead


def test_logits_equal_the_definition():
    torch.manual_seed(0)
    head = TokenHead(text_width=6, embed_dim=4)
    torch.nn.init.normal_(head.text_bias)
    torch.nn.init.constant_(head.log_scale, 0.7)
    regions, tokens = torch.randn(2, 3, 4), 5 * torch.randn(2, 5, 6)
    logits = head(regions, tokens)
    for b, k, t in ((0, 0, 0), (1, 2, 4), (1, 0, 3)):
        unit = tokens[b, t] / tokens[b, t].norm()
        projected = head.projection.weight @ (unit / 2) + head.projection.bias
        expected = regions[b, k] @ projected / math.exp(0.7) + unit @ head.text_bias + head.bias
        torch.testing.assert_close(logits[b, k, t], expected)


def test_the_first_probability_is_the_prior():
    head = TokenHead(text_width=6, embed_dim=4, prior=0.01)
    assert head(torch.zeros(1, 2, 4), torch.randn(1, 3, 6)).sigmoid().allclose(torch.tensor(0.01))
    assert head.log_scale == 0
    assert not head.text_bias.any()


def test_the_initial_scale_multiplies_the_products():
    torch.manual_seed(0)
    one, five = TokenHead(6, 4, prior=None), TokenHead(6, 4, prior=None, initial_scale=5.0)
    five.projection.load_state_dict(one.projection.state_dict())
    regions, tokens = torch.randn(2, 3, 4), torch.randn(2, 5, 6)
    torch.testing.assert_close(five(regions, tokens), 5 * one(regions, tokens))


def test_large_logits_are_clamped():
    head = TokenHead(text_width=6, embed_dim=4)
    logits = head(torch.full((1, 2, 4), 1e30), torch.randn(1, 3, 6))
    assert logits.abs().max() == 50_000
    assert head(torch.zeros(1, 2, 4), torch.zeros(1, 3, 6)).isfinite().all()
