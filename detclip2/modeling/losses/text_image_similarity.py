"""Similarity of texts and images, from the similarity of phrases and regions (eq. 2-4).

Images are processed in chunks, so that the (M, B, R) similarities of phrases and regions are never
in memory at once. Scores are (U, B), of U texts and B images. Texts share phrases, and each
distinct phrase is compared with each region once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass
class Texts:
    """U texts as sets of phrases, the paper's words; a text has at least one, and no duplicates.

    The phrases of text t are ``word[text == t]``; E is the number of these pairs.
    """

    word: Tensor
    """(E,) int64 index of the phrase among the M."""
    text: Tensor
    """(E,) int64 index of its text, ascending."""
    caption: Tensor
    """(U,) int64 index of the whole caption among the M phrases."""
    image: Tensor
    """(U,) int64 index of the text's image in the global batch."""
    group: Tensor
    """(number of images in the global batch,) int64: equal for images whose texts have the same
    phrases; -1 for images without a text."""

    @classmethod
    def from_lists(cls, words: list[list[int]], device: torch.device | str = "cpu") -> "Texts":
        """Texts from the phrases of each image of the global batch.

        Args:
            words: the distinct phrases of each image, the whole caption first; none for an image
                without a text.
            device: of the tensors.
        """
        sets: dict[frozenset[int], int] = {}
        group = [sets.setdefault(frozenset(w), len(sets)) if w else -1 for w in words]
        texts = [w for w in words if w]

        def tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            word=tensor([m for text in texts for m in text]),
            text=tensor([t for t, text in enumerate(texts) for _ in text]),
            caption=tensor([text[0] for text in texts]),
            image=tensor([i for i, w in enumerate(words) if w]),
            group=tensor(group),
        )

    def __len__(self) -> int:
        """U, the number of texts."""
        return len(self.image)

    def mean_over_words(self, scores: Tensor) -> Tensor:
        """(M, B) scores of phrases -> (U, B) means over the phrases of each text (eq. 3)."""
        count = torch.bincount(self.text, minlength=len(self)).to(scores.dtype)
        total = scores.new_zeros(len(self), scores.shape[1])
        return total.index_add(0, self.text, scores[self.word]) / count[:, None]


def text_to_image_similarity(
    phrases: Tensor,
    regions: Tensor,
    valid: Tensor,
    texts: Texts,
    temperature: float | None = None,
    max_elements: int = 2**24,
) -> Tensor:
    """s_T: the mean similarity of a text's phrases with their regions in an image.

    Args:
        phrases: (M, D) embeddings.
        regions: (B, R, D) embeddings of the images' proposals.
        valid: (B, R) bool, False for padding. Images without any proposal have arbitrary scores.
        texts: U texts.
        temperature: tau_t of eq. 4, in which a phrase matches all regions, weighted by softmax;
            None is the limit 0: a phrase matches its best region (eq. 2 and 3).
        max_elements: maximum similarities of phrases and regions in memory at once.

    Returns:
        (U, B) in float32, or in float64 for embeddings in float64.
    """
    if temperature is None:
        scores = _BestRegion.apply(phrases, regions, valid, max_elements)
    else:

        def soft(phrases: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
            similarity = _widen(_similarity(phrases, regions, valid))
            return ((similarity / temperature).softmax(dim=2) * similarity).sum(dim=2)

        scores = _in_chunks(soft, phrases, regions, valid, len(phrases), max_elements)
    return texts.mean_over_words(scores)


def best_regions(
    phrases: Tensor, regions: Tensor, valid: Tensor, buffer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The most similar region of each image for each phrase (eq. 2).

    Args:
        phrases: (M, D) embeddings.
        regions: (B, R, D) embeddings of the images' proposals.
        valid: (B, R) bool, False for padding.
        buffer: memory to reuse, for at least M x B x R similarities.

    Returns:
        (M, B) similarities, and (M, B) int64 indices of their regions among the R; both are
        arbitrary for an image without a valid region.
    """
    similarity, region = _similarity(phrases, regions, valid, buffer).max(dim=2)
    return similarity, region


def image_to_text_similarity(
    phrases: Tensor,
    regions: Tensor,
    valid: Tensor,
    texts: Texts,
    temperature: float | None = None,
    max_elements: int = 2**24,
) -> Tensor:
    """s_I: the mean similarity of an image's regions with their phrases in a text, as in FILIP.

    Arguments and result are those of `text_to_image_similarity`.
    """

    def seek(phrases: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
        similarity = _similarity(phrases, regions, valid)
        similarity = _widen(similarity.flatten(1)[texts.word])  # (E, B'R)
        shape = (len(texts), similarity.shape[1])
        index = texts.text[:, None].expand_as(similarity)
        best = similarity.new_zeros(shape).scatter_reduce(
            0, index, similarity, "amax", include_self=False
        )
        if temperature is not None:
            weight = ((similarity - best.detach()[texts.text]) / temperature).exp()
            total = weight.new_zeros(shape).index_add(0, texts.text, weight)
            best = weight.new_zeros(shape).index_add(0, texts.text, weight * similarity) / total
        best = best.view(len(texts), *valid.shape).masked_fill(~valid, 0)
        return best.sum(dim=2) / valid.sum(dim=1).clamp(min=1)

    return _in_chunks(seek, phrases, regions, valid, len(texts.word), max_elements)


def max_size_box_similarity(
    phrases: Tensor, regions: Tensor, valid: Tensor, texts: Texts, areas: Tensor
) -> Tensor:
    """The similarity of the whole caption with the largest proposal (as Detic, Tab. 2b).

    Args:
        phrases: (M, D) embeddings.
        regions: (B, R, D) embeddings of the images' proposals.
        valid: (B, R) bool, False for padding.
        texts: U texts.
        areas: (B, R) areas of the proposals' boxes, px^2.

    Returns:
        (U, B) in float32, or in float64 for embeddings in float64.
    """
    largest = areas.masked_fill(~valid, -1).argmax(dim=1)
    images = torch.arange(len(regions), device=regions.device)
    return _widen(phrases[texts.caption] @ regions[images, largest].T)


def image_similarity(phrases: Tensor, regions: Tensor, valid: Tensor, texts: Texts) -> Tensor:
    """The similarity of the whole caption with the mean of all proposals (as CLIP).

    Not in the paper: one vector an image and one a text, without localisation of phrases.

    Args:
        phrases: (M, D) embeddings.
        regions: (B, R, D) embeddings of the images' proposals.
        valid: (B, R) bool, False for padding.
        texts: U texts.

    Returns:
        (U, B) in float32, or in float64 for embeddings in float64.
    """
    count = valid.sum(dim=1).clamp(min=1)
    mean = regions.masked_fill(~valid[..., None], 0).sum(dim=1) / count[:, None]
    return _widen(phrases[texts.caption] @ mean.to(phrases.dtype).T)


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _similarity(
    phrases: Tensor, regions: Tensor, valid: Tensor, buffer: Tensor | None = None
) -> Tensor:
    """(M, D) and (B, R, D) -> (M, B, R), far below all others if not ``valid``.

    It is written into ``buffer``, if that is given.
    """
    rows = regions.flatten(0, 1)
    shape = (len(phrases), len(rows))
    out = None if buffer is None else buffer[: math.prod(shape)].view(shape)
    similarity = torch.mm(phrases, rows.T, out=out).view(-1, *regions.shape[:2])
    return similarity.masked_fill_(~valid, -3e4)  # fits half precision


def _chunk_size(elements: int, max_elements: int) -> int:
    """How many images of ``elements`` each fit into ``max_elements``; at least one."""
    return max(1, max_elements // max(1, elements))


def _in_chunks(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    phrases: Tensor,
    regions: Tensor,
    valid: Tensor,
    rows: int,
    max_elements: int,
) -> Tensor:
    """Apply ``function`` to chunks of images; backward recomputes it, to save memory."""
    size = _chunk_size(rows * regions.shape[1], max_elements)
    scores = [  # split, not sliced: its gradient is one concatenation
        checkpoint(function, phrases, chunk, chunk_valid, use_reentrant=False)
        for chunk, chunk_valid in zip(regions.split(size), valid.split(size), strict=True)
    ]
    return torch.cat(scores, dim=1)


class _BestRegion(torch.autograd.Function):
    """(M, D), (B, R, D), (B, R) -> (M, B): the best similarity of each phrase in each image.

    Forward is a matrix product in chunks that keeps the best regions. Only one region in R has a
    gradient, so backward is two sparse products, R times smaller than dense ones.
    """

    @staticmethod
    def forward(
        ctx: Any, phrases: Tensor, regions: Tensor, valid: Tensor, max_elements: int
    ) -> Tensor:
        shape = (len(phrases), len(regions))
        scores = _widen(phrases.new_empty(shape))
        winner = torch.empty(shape, dtype=torch.int32, device=regions.device)
        size = _chunk_size(len(phrases) * regions.shape[1], max_elements)
        # One buffer for all chunks: allocation takes a third of the product's time on CPUs.
        buffer = phrases.new_empty(len(phrases) * regions[:size, :, 0].numel())
        for start in range(0, len(regions), size):
            chunk = slice(start, start + size)
            scores[:, chunk], winner[:, chunk] = best_regions(
                phrases, regions[chunk], valid[chunk], buffer
            )
        ctx.save_for_backward(phrases, regions, winner)
        ctx.max_elements = max_elements
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        phrases, regions, winner = ctx.saved_tensors
        words = phrases.to(grad.dtype)  # these gradients are too small for half precision
        grad_words = torch.zeros_like(words)
        grad_regions = torch.zeros_like(regions, dtype=grad.dtype)
        # Sorting takes several numbers for each pair, but there are R times fewer pairs.
        size = _chunk_size(16 * len(words), ctx.max_elements)
        for start in range(0, len(regions), size):
            chunk = slice(start, start + size)
            part, grad_regions[chunk] = _best_region_backward(
                words, regions[chunk].to(grad.dtype), winner[:, chunk], grad[:, chunk]
            )
            grad_words += part
        return grad_words.to(phrases.dtype), grad_regions.to(regions.dtype), None, None


def _best_region_backward(
    phrases: Tensor, regions: Tensor, winner: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of (M, D) phrases and (B, R, D) regions from ``grad`` (M, B) of the best pairs."""
    num_images, num_regions = regions.shape[:2]
    rows = regions.flatten(0, 1)
    region = winner + num_regions * torch.arange(num_images, device=grad.device)  # row, (M, B)
    grad_phrases = F.embedding_bag(region, rows, mode="sum", per_sample_weights=grad)
    # The same pairs sorted by region: a bag of phrases for each region.
    region, order = region.flatten().sort(stable=True)
    starts = torch.searchsorted(region, torch.arange(len(rows), device=grad.device))
    grad_regions = F.embedding_bag(
        order // num_images,
        phrases,
        starts,
        mode="sum",
        per_sample_weights=grad.flatten()[order],
    )
    return grad_phrases, grad_regions.view_as(regions)
