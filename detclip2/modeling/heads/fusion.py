"""Deep fusion: image and text attend to each other (GLIP, arXiv 2112.03857, sec. 3.2)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 50_000.0
"""Logits are clamped to +-this, which half precision can hold, as in GLIP's code."""
LARGEST_EXPONENT = 70.0
"""Sums of exp(+-this) over all locations and tokens, and their products, are finite in float32."""
ELEMENTS_AT_ONCE = 2**19
"""Elements of a part of exp(A_h), 2 MiB, which stays in the cache."""


class Fusion(nn.Module):
    """Cross attention in both directions from one matrix of attention logits.

    With q of the image, k of the text, and values of both (heads h of width d):

        A_h = q_h k_h^T / sqrt(d)
        image += scale * out(softmax(A_h over tokens) text_value_h)
        text  += scale * out(softmax(A_h over locations) image_value_h)

    As in the published code, the sums start from the normalised inputs, and the second softmax runs
    over the padding of the image too.

    An image has many more locations than a caption has tokens, so the linear maps of the image are
    applied to the text instead: q_h k_h^T = v (k_h W_q)^T, and likewise for the values. This is the
    same product in another order: half of the multiplications at 256 tokens, and no
    (K, embed_dim) tensor. Heads are computed one after another, so that one (K, T) matrix is in
    memory at a time in inference.

    In inference both softmaxes are divisions of one exp(A_h), which is computed for some locations
    at a time and never stored whole. Logits beyond `LARGEST_EXPONENT` have it overflow; they take
    the way of training.

    Args:
        image_width: channels of a location.
        text_width: channels of a token.
        embed_dim: width of queries, keys and values, all heads together.
        num_heads: heads.
        dropout: of attention weights.
        initial_scale: of the sums; 1 / blocks of the head, by which its depth does not matter.
    """

    def __init__(
        self,
        image_width: int = 256,
        text_width: int = 768,
        embed_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.1,
        initial_scale: float = 1 / 6,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.image_norm = nn.LayerNorm(image_width)
        self.text_norm = nn.LayerNorm(text_width)
        self.query = nn.Linear(image_width, embed_dim)
        self.key = nn.Linear(text_width, embed_dim)
        self.image_value = nn.Linear(image_width, embed_dim)
        self.text_value = nn.Linear(text_width, embed_dim)
        self.image_out = nn.Linear(embed_dim, image_width)
        self.text_out = nn.Linear(embed_dim, text_width)
        linear = [layer for layer in self.children() if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.image_scale = nn.Parameter(torch.full((image_width,), initial_scale))
        self.text_scale = nn.Parameter(torch.full((text_width,), initial_scale))

    def forward(
        self, image: Tensor, text: Tensor, mask: Tensor, both_ways: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Fuse B images with their captions.

        Args:
            image: (B, K, image_width), all levels joined.
            text: (B, T, text_width).
            mask: (B, T) bool, False for padding.
            both_ways: False: the text attends to the image, and not the image to the text. Tokens
                are then independent of each other, as in a caption that is being written (GLIPv2).

        Returns:
            ``image`` and ``text``, fused.
        """
        image, text = self.image_norm(image), self.text_norm(text)
        if not (self.training or torch.is_grad_enabled() or is_half(image)):
            sums = self._sums_of_exponentials(image, text, mask, both_ways)
            if sums is not None:
                return sums
        return self._sums_of_softmax(image, text, mask, both_ways)

    def _heads(self, text: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """For each head, the maps of the image applied to (B, T, text_width) tokens.

        Yields:
            (B, image_width, T) and (B, 1, T): A is the image times the first, plus the second;
            (B, T, image_width), what a token adds to the image; and the (d, image_width) map and
            (d,) bias of the image's values.
        """
        heads = zip(
            self.key(text).chunk(self.num_heads, dim=2),
            self.text_value(text).chunk(self.num_heads, dim=2),
            self.query.weight.chunk(self.num_heads),
            self.query.bias.chunk(self.num_heads),
            self.image_value.weight.chunk(self.num_heads),
            self.image_value.bias.chunk(self.num_heads),
            self.image_out.weight.chunk(self.num_heads, dim=1),
            strict=True,
        )
        for key, value, query_map, query_bias, value_map, value_bias, out_map in heads:
            key = key * key.shape[2] ** -0.5
            yield (
                *((key @ query_map).mT, (key @ query_bias)[:, None]),
                *(value @ out_map.mT, value_map, value_bias),
            )

    def _sums_of_softmax(
        self, image: Tensor, text: Tensor, mask: Tensor, both_ways: bool
    ) -> tuple[Tensor, Tensor]:
        """The definition, with dropout and gradients."""
        padding = ~mask[:, None]  # (B, 1, T)
        to_image: Tensor = self.image_out.bias
        to_text = []
        for key, bias, value, value_map, value_bias in self._heads(text):
            logits = torch.baddbmm(bias, image, key).clamp(-LARGEST, LARGEST)  # (B, K, T)
            lowest = torch.finfo(logits.dtype).min
            if both_ways:
                over_tokens = self._dropped(logits.masked_fill(padding, lowest).softmax(dim=2))
                to_image = to_image + over_tokens @ value
            over_locations = self._dropped(logits.softmax(dim=1)).mT  # (B, T, K)
            total = over_locations.sum(dim=2, keepdim=True)  # 1, but for dropout
            to_text.append((over_locations @ image) @ value_map.mT + total * value_bias)
        return self._added(image, text, to_image if both_ways else None, to_text)

    def _sums_of_exponentials(
        self, image: Tensor, text: Tensor, mask: Tensor, both_ways: bool
    ) -> tuple[Tensor, Tensor] | None:
        """The same without dropout and gradients; None if an exponential would overflow."""
        own = mask[..., None].to(image.dtype)  # (B, T, 1)
        to_image = self.image_out.bias.repeat(*image.shape[:2], 1)
        heads = [
            (key, bias, value * own, value_map, value_bias)
            for key, bias, value, value_map, value_bias in self._heads(text)
        ]
        means = [image.new_zeros(*mask.shape, image.shape[2]) for _ in heads]
        totals = [torch.zeros_like(own) for _ in heads]
        places = max(1, ELEMENTS_AT_ONCE // (len(image) * mask.shape[1]))
        for part, sums in zip(image.split(places, 1), to_image.split(places, 1), strict=True):
            for i, (key, bias, value, _, _) in enumerate(heads):
                logits = torch.baddbmm(bias, part, key)  # (B, places, T)
                if not logits.abs().max() <= LARGEST_EXPONENT:  # also of NaN
                    return None
                weights = logits.exp_()
                if both_ways:
                    sums += (weights @ value).div_(weights @ own)
                means[i] += weights.mT @ part
                totals[i] += weights.sum(dim=1)[..., None]
        to_text = [
            mean / total @ value_map.mT + value_bias
            for mean, total, (*_, value_map, value_bias) in zip(means, totals, heads, strict=True)
        ]
        return self._added(image, text, to_image if both_ways else None, to_text)

    def _added(
        self, image: Tensor, text: Tensor, to_image: Tensor | None, to_text: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return (
            image if to_image is None else image + self.image_scale * to_image,
            text + self.text_scale * self.text_out(torch.cat(to_text, dim=2)),
        )

    def _dropped(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)


def is_half(x: Tensor) -> bool:
    """Whether operations on a tensor are in half precision, by itself or by autocast."""
    return x.element_size() < 4 or torch.is_autocast_enabled(x.device.type)
