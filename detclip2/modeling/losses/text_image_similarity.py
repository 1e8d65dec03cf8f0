"""Similarity of texts and images, from the similarity of phrases and regions (eq. 2-4).

Images are processed in chunks, so that the (M, B, R) similarities of phrases and regions are never
in memory at once. Scores are (U, B), of U texts and B images. Texts share phrases, and each
distinct phrase is compared with each region once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FAR_BELOW = -3e4  # all similarities, and within half precision


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


@torch.no_grad()
def best_regions(
    phrases: Tensor, regions: Tensor, valid: Tensor, max_elements: int = 2**24
) -> tuple[Tensor, Tensor]:
    """The most similar region of each image for each phrase (eq. 2), without gradients.

    Args:
        phrases: (M, D) embeddings.
        regions: (B, R, D) embeddings of the images' proposals.
        valid: (B, R) bool, False for padding.
        max_elements: maximum similarities of phrases and regions in memory at once.

    Returns:
        (M, B) similarities, and (M, B) int32 indices of their regions among the R; both are
        arbitrary for an image without a valid region. Similarities are in float32, or in float64
        for embeddings in float64.
    """
    shape = (len(phrases), len(regions))
    similarity = _widen(phrases.new_empty(shape))
    region = torch.empty(shape, dtype=torch.int32, device=regions.device)
    # One buffer for all blocks, the first of which is the largest: allocation takes a third of
    # the product's time on CPUs.
    buffer = phrases.new_empty(0)
    for chunk, images in _blocks(phrases, len(regions), regions.shape[1], max_elements):
        rows, columns = regions[images].flatten(0, 1), phrases[chunk].T
        block = torch.mm(rows, columns, out=buffer.resize_(len(rows), columns.shape[1]))
        padding = (~valid[images]).flatten().nonzero()[:, 0]
        block.index_fill_(0, padding, FAR_BELOW)
        best, index = _max_over_regions(block.unflatten(0, (-1, regions.shape[1])))
        similarity[chunk, images], region[chunk, images] = best.T, index.T
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


def _similarity(phrases: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
    """(M, D) and (B, R, D) -> (M, B, R), far below all others if not ``valid``."""
    similarity = (phrases @ regions.flatten(0, 1).T).view(-1, *regions.shape[:2])
    return similarity.masked_fill_(~valid, FAR_BELOW)


def _max_over_regions(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """(B, R, M) -> (B, M) largest values, and their indices among the R.

    On CPUs, `max` with indices goes through the numbers one by one, and pooling through many.
    """
    if similarity.device.type != "cpu":
        return similarity.max(dim=1)
    channels_last = similarity[:, :, None].permute(0, 3, 1, 2)  # (B, M, R, 1)
    best, index = F.max_pool2d(channels_last, (similarity.shape[1], 1), return_indices=True)
    return best[..., 0, 0], index[..., 0, 0]


def _blocks(
    phrases: Tensor, num_images: int, elements: int, max_elements: int
) -> Iterator[tuple[slice, slice]]:
    """Blocks of phrases and images, with ``elements`` for each phrase and image.

    On CPUs a block stays in the cache, with the rows that make it.
    """
    num_phrases = len(phrases)
    if phrases.device.type == "cpu":
        num_phrases, max_elements = min(num_phrases, 2**10), min(max_elements, 2**20)
    size = _chunk_size(num_phrases * elements, max_elements)
    for image in range(0, num_images, size):
        for phrase in range(0, len(phrases), num_phrases):
            yield slice(phrase, phrase + num_phrases), slice(image, image + size)


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

    Forward is a matrix product in blocks that keeps the best regions. Only one region in R has a
    gradient, so backward is two sparse products, R times smaller than dense ones.
    """

    @staticmethod
    def forward(
        ctx: Any, phrases: Tensor, regions: Tensor, valid: Tensor, max_elements: int
    ) -> Tensor:
        scores, winner = best_regions(phrases, regions, valid, max_elements)
        ctx.save_for_backward(phrases, regions, winner)
        ctx.max_elements = max_elements
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        phrases, regions, winner = ctx.saved_tensors
        # These gradients are too small for half precision.
        words, rows = phrases.to(grad.dtype), regions.to(grad.dtype)
        grad_words, grad_regions = torch.zeros_like(words), torch.zeros_like(rows)
        # Sorting takes several numbers for each pair, but there are R times fewer pairs.
        for chunk, images in _blocks(words, len(rows), 16, ctx.max_elements):
            _add_best_region_gradients(
                words[chunk],
                rows[images],
                winner[chunk, images],
                grad[chunk, images],
                grad_words[chunk],
                grad_regions[images],
            )
        return grad_words.to(phrases.dtype), grad_regions.to(regions.dtype), None, None


def _add_best_region_gradients(
    phrases: Tensor,
    regions: Tensor,
    winner: Tensor,
    grad: Tensor,
    grad_phrases: Tensor,
    grad_regions: Tensor,
) -> None:
    """Add the gradients of (M, D) phrases and (B, R, D) regions from ``grad`` (M, B)."""
    num_images, num_regions = regions.shape[:2]
    rows = regions.flatten(0, 1)
    images = torch.arange(num_images, dtype=winner.dtype, device=grad.device)
    region = winner + num_regions * images  # row, (M, B)
    starts = torch.arange(0, region.numel(), num_images, dtype=winner.dtype, device=grad.device)
    region, weights = region.flatten(), grad.flatten()
    grad_phrases += F.embedding_bag(region, rows, starts, mode="sum", per_sample_weights=weights)
    # The same pairs sorted by region: a bag of phrases for each region.
    region, order = region.sort(stable=True)
    rows_of_region = torch.arange(len(rows), dtype=region.dtype, device=grad.device)
    grad_regions += F.embedding_bag(
        order // num_images,
        phrases,
        torch.searchsorted(region, rows_of_region),
        mode="sum",
        per_sample_weights=weights[order],
    ).view_as(regions)
