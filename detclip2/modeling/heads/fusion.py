"""Deep fusion: image and text attend to each other (GLIP, arXiv 2112.03857, sec. 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 50_000.0
"""Logits are clamped to +-this, which half precision can hold, as in GLIP's code."""


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

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse B images with their captions.

        Args:
            image: (B, K, image_width), all levels joined.
            text: (B, T, text_width).
            mask: (B, T) bool, False for padding.

        Returns:
            ``image`` and ``text``, fused.
        """
        image, text = self.image_norm(image), self.text_norm(text)
        padding = ~mask[:, None]  # (B, 1, T)
        to_image, to_text = self.image_out.bias, []
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
            logits = torch.baddbmm((key @ query_bias)[:, None], image, (key @ query_map).mT)
            logits = logits.clamp(-LARGEST, LARGEST)  # (B, K, T)
            lowest = torch.finfo(logits.dtype).min
            over_tokens = self._dropped(logits.masked_fill(padding, lowest).softmax(dim=2))
            to_image = to_image + over_tokens @ (value @ out_map.mT)
            over_locations = self._dropped(logits.softmax(dim=1)).mT  # (B, T, K)
            total = over_locations.sum(dim=2, keepdim=True)  # 1, but for dropout
            to_text.append((over_locations @ image) @ value_map.mT + total * value_bias)
        return (
            image + self.image_scale * to_image,
            text + self.text_scale * self.text_out(torch.cat(to_text, dim=2)),
        )

    def _dropped(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.dropout, self.training)
