"""The similarity of texts and images where it needs several blocks, and what a step of it costs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from detclip2.modeling.losses.text_image_similarity import (
    Texts,
    best_regions,
    image_to_text_similarity,
    max_size_box_similarity,
    text_to_image_similarity,
)

M, B, R, D = 1100, 12, 100, 3  # more phrases, and more images with them, than a block has


def inputs(dtype=torch.float64):
    """Embeddings, which regions are valid, and texts of four phrases that share some."""
    generator = torch.Generator().manual_seed(1)
    phrases = torch.randn(M, D, generator=generator, dtype=dtype).requires_grad_()
    regions = torch.randn(B, R, D, generator=generator, dtype=dtype).requires_grad_()
    valid = torch.rand(B, R, generator=generator) < 0.7
    texts = Texts.from_lists([[m, (m + 1) % M, (m + 7) % M, m // 2] for m in range(0, M, 3)])
    return phrases, regions, valid, texts


def dense_similarity(phrases, regions, valid):
    """(M, B, R), all at once."""
    similarity = torch.einsum("md,brd->mbr", phrases, regions)
    return similarity.masked_fill(~valid, -torch.inf)


@pytest.mark.parametrize("max_elements", [2**24, 300_000, 1])
def test_blocks_equal_the_whole_in_value_and_gradient(max_elements):
    phrases, regions, valid, texts = inputs()
    scores = text_to_image_similarity(phrases, regions, valid, texts, None, max_elements)
    best = dense_similarity(phrases, regions, valid).amax(dim=2)
    words = [texts.word[texts.text == t] for t in range(len(texts))]
    expected = torch.stack([best[w].mean(dim=0) for w in words])
    torch.testing.assert_close(scores, expected)
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2)).double()
    found = torch.autograd.grad((scores * weights).sum(), (phrases, regions))
    wanted = torch.autograd.grad((expected * weights).sum(), (phrases, regions))
    torch.testing.assert_close(found, wanted)
    assert not found[1][~valid].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_best_regions_are_those_of_the_whole(dtype):
    phrases, regions, valid, _ = inputs(dtype)
    similarity, index = best_regions(phrases, regions, valid)
    whole = dense_similarity(phrases, regions, valid).to(similarity.dtype)
    assert similarity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not similarity.requires_grad
    close = {"rtol": 0.02 if dtype == torch.bfloat16 else 1e-5, "atol": 1e-6}
    torch.testing.assert_close(similarity, whole.amax(dim=2), **close)
    chosen = whole.gather(2, index.long()[..., None])[..., 0]
    torch.testing.assert_close(chosen, similarity, **close)


def test_an_image_without_regions_has_no_gradient():
    phrases, regions, valid, texts = inputs()
    valid[3] = False
    scores = text_to_image_similarity(phrases, regions, valid, texts)
    scores[:, [b for b in range(B) if b != 3]].sum().backward()
    assert not regions.grad[3].any()
    assert regions.grad[4].any()


class Calls(TorchDispatchMode):
    """Names of all operations, and the largest result of a matrix product."""

    def __init__(self):
        super().__init__()
        self.names, self.largest_product = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(str(function))
        if "aten.mm" in str(function):
            self.largest_product = max(self.largest_product, result.numel())
        return result


def step():
    phrases, regions, valid, texts = inputs(torch.float32)
    text_to_image_similarity(phrases, regions, valid, texts).sum().backward()


def test_a_step_has_one_matrix_product():
    """That of the floor: backward knows the best regions, and has none."""
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == 2 * M * B * R * D


def test_on_a_cpu_products_stay_in_the_cache_and_are_not_searched_one_by_one():
    with Calls() as calls:
        step()
    assert 0 < calls.largest_product <= 2**20
    assert "aten.max.dim" not in calls.names
    assert "aten.max_pool2d_with_indices.default" in calls.names
    assert "aten.masked_fill_.Scalar" not in calls.names  # only rows of padding are written


def few():
    """Inputs for a loop over texts and images, most of them with padding."""
    generator = torch.Generator().manual_seed(0)
    phrases = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    regions = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    valid = torch.arange(6) < torch.tensor([[6], [3], [1]])
    return phrases, regions, valid, Texts.from_lists([[0, 1], [2], [3, 4, 1]])


@pytest.mark.parametrize("temperature", [None, 0.1])
def test_padding_is_not_in_the_mean_over_regions(temperature):
    phrases, regions, valid, texts = few()
    found = image_to_text_similarity(phrases, regions, valid, texts, temperature)
    for t in range(len(texts)):
        for b in range(len(regions)):
            s = regions[b][valid[b]] @ phrases[texts.word[texts.text == t]].T
            best = s.amax(1) if temperature is None else ((s / temperature).softmax(1) * s).sum(1)
            torch.testing.assert_close(found[t, b], best.mean())


def test_padding_is_never_the_largest_box():
    phrases, regions, valid, texts = few()
    areas = torch.where(valid, torch.arange(6.0), 100.0)  # padding has the area of anchor 0
    found = max_size_box_similarity(phrases, regions, valid, texts, areas)
    largest = torch.stack([regions[0, 5], regions[1, 2], regions[2, 0]])
    torch.testing.assert_close(found, phrases[texts.caption] @ largest.T)
