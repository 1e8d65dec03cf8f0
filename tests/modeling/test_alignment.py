import math
import statistics

import pytest
import torch

from detclip2.modeling.alignment import Alignment, GroupedSimilarity

B, K, M, D = 2, 5, 3, 8


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@pytest.mark.parametrize("normalize_regions", [False, True])
def test_similarity_equals_a_loop(normalize_regions):
    align = Alignment(prior=0.2, normalize_regions=normalize_regions, initial_scale=3.0)
    regions, phrases = normal(B, K, D), normal(M, D, seed=1)
    similarity = align(regions, phrases)
    assert similarity.shape == (B, K, M)
    for b in range(B):
        for k in range(K):
            for m in range(M):
                region, phrase = regions[b, k].tolist(), phrases[m].tolist()
                length = 1 if normalize_regions else math.hypot(*region)
                expected = 3 * length * cosine(region, phrase) + math.log(0.2 / 0.8)
                assert similarity[b, k, m].item() == pytest.approx(expected, abs=1e-5)


def test_the_norm_of_phrases_does_not_matter_and_zero_is_finite():
    align = Alignment()
    regions, phrases = normal(K, D), normal(M, D, seed=1)
    torch.testing.assert_close(align(regions, phrases), align(regions, 50 * phrases))
    assert align(regions, torch.zeros(M, D)).isfinite().all()
    assert align(regions, torch.zeros(0, D)).shape == (K, 0)


def test_a_zero_region_has_the_prior():
    torch.testing.assert_close(
        Alignment()(torch.zeros(K, D), normal(M, D)).sigmoid(), torch.full((K, M), 0.01)
    )


def test_the_untrained_model_predicts_the_prior(tiny_model):
    """With the initial scale of the paper's models."""
    torch.nn.init.zeros_(tiny_model.align.log_scale)
    images = tiny_model.preprocess_image([{"image": 255 * torch.rand(3, 128, 160)}])
    with torch.no_grad():
        outputs = tiny_model.encode_images(images)
        phrases = tiny_model.text_tower([f"thing {i}" for i in range(20)])
        probability = tiny_model.align(outputs.regions, phrases).sigmoid()
    # Random similarities lie around 0, so the middle of the probabilities is the prior.
    assert probability.median().item() == pytest.approx(0.01, rel=0.2)
    assert probability.min() > 1e-4
    assert probability.max() < 0.5


@pytest.mark.parametrize(("reduce", "of"), [("amax", max), ("mean", statistics.fmean)])
def test_a_label_with_several_rows_scores_their_maximum_or_mean(reduce, of):
    align = Alignment(prior=0.2)
    label_of_row = [0, 0, 0, 1, 2, 2, 3]
    regions, names = normal(K, D), normal(len(label_of_row), D, seed=1)
    grouped = GroupedSimilarity(align, torch.tensor(label_of_row), reduce)(regions, names)
    similarity = align(regions, names)
    assert grouped.shape == (K, 4)
    for k in range(K):
        for label in range(4):
            own = [similarity[k, r].item() for r, c in enumerate(label_of_row) if c == label]
            assert grouped[k, label].item() == pytest.approx(of(own), abs=1e-6)


def test_one_name_a_label_gives_the_plain_similarity():
    align = Alignment()
    regions, names = normal(K, D), normal(M, D, seed=1)
    assert torch.equal(
        GroupedSimilarity(align, torch.arange(M))(regions, names), align(regions, names)
    )


def test_best_name_without_regions():
    best = GroupedSimilarity(Alignment(), torch.tensor([0, 0]))(normal(0, D), normal(2, D))
    assert best.shape == (0, 1)


def test_no_label():
    grouped = GroupedSimilarity(Alignment(), torch.zeros(0, dtype=torch.int64))
    assert grouped(normal(K, D), normal(0, D)).shape == (K, 0)
    assert grouped.chunks(normal(0, D), 3) == []


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunks_of_labels_equal_the_whole(size):
    regions, names = normal(5, D), normal(7, D, seed=1)
    labels = GroupedSimilarity(Alignment(), torch.tensor([0, 1, 1, 1, 2, 3, 3]))
    for align in (Alignment(), labels):
        chunks = align.chunks(names, size)
        whole = align(regions, names)
        assert [first for first, _ in chunks] == list(range(0, whole.shape[1], size))
        parts = torch.cat([similarity(regions) for _, similarity in chunks], dim=1)
        torch.testing.assert_close(parts, whole)
