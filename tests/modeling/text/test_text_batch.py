import pytest
import torch

from detclip2.modeling.text.text_batch import PhraseBatch, gather_phrases
from tests.helpers.processes import run_processes

SAMPLES = [
    {"phrases": ["cat", "a dog", "tree"], "num_positives": 2},
    {"phrases": ["tree", "cat"], "num_positives": 1, "own_phrases_only": True},
    {"phrases": [], "num_positives": 0},
    {"phrases": ["sea", "a dog"], "num_positives": 1, "not_exhaustive": torch.tensor([0])},
    {"phrases": ["Cat"], "num_positives": 1},
]


def test_phrases_are_distinct_and_in_the_order_of_first_appearance():
    batch = PhraseBatch.from_samples(SAMPLES)
    assert len(batch) == len(SAMPLES)
    assert batch.phrases == ["cat", "a dog", "tree", "sea", "Cat"]
    for sample, index in zip(SAMPLES, batch.index, strict=True):
        assert [batch.phrases[i] for i in index] == sample["phrases"]
    assert batch.positives(3).tolist() == [3]


def test_targets_point_at_the_phrase_of_the_box():
    batch = PhraseBatch.from_samples(SAMPLES)
    assert batch.targets_of(1, torch.tensor([0, 0])).tolist() == [2, 2]
    assert batch.targets_of(3, torch.tensor([], dtype=torch.int64)).tolist() == []


def test_negatives_leave_out_what_may_be_present():
    expected = [
        [True, True, True, True, True],
        [True, False, True, False, False],  # its own phrases only
        [True, True, True, True, True],
        [True, True, True, False, True],  # "sea" is not boxed exhaustively
        [True, True, True, True, True],
    ]
    assert PhraseBatch.from_samples(SAMPLES).negatives_valid().tolist() == expected


def test_a_batch_without_phrases():
    batch = PhraseBatch.from_samples([SAMPLES[2]])
    assert batch.phrases == []
    assert batch.negatives_valid().shape == (1, 0)
    gathered, embeddings = gather_phrases(batch, torch.zeros(0, 4))
    assert gathered.phrases == []
    assert embeddings.shape == (0, 4)


def test_every_phrase_needs_its_embedding():
    with pytest.raises(ValueError, match="4 embeddings for 5 phrases"):
        gather_phrases(PhraseBatch.from_samples(SAMPLES), torch.zeros(4, 2))


def align(rank, world_size, shares):
    """One process's share of a step: encode its phrases, align its regions with everyone's."""
    samples = SAMPLES[sum(shares[:rank]) : sum(shares[: rank + 1])]
    letters = torch.randn(128, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tower = torch.nn.Parameter(letters)
    regions = torch.randn(
        len(SAMPLES), 4, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).split(shares)[rank]
    batch = PhraseBatch.from_samples(samples)
    words = [tower[[ord(c) for c in phrase]].mean(0) for phrase in batch.phrases]
    batch, phrases = gather_phrases(batch, torch.stack(words) if words else tower[:0])
    similarity = regions @ phrases.T
    # Anchor 0 of each image is on its first positive phrase, the others are on none.
    target = torch.zeros_like(similarity)
    valid = batch.negatives_valid()[:, None].expand_as(similarity).clone()
    for b in range(len(batch)):
        for m in batch.targets_of(b, torch.arange(min(1, batch.num_positives[b]))):
            target[b, 0, m], valid[b, 0, m] = 1, True
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        similarity, target, weight=valid, reduction="sum"
    )
    (loss * world_size).backward()  # the mean over processes is the sum of their shares
    return {"phrases": batch.phrases, "loss": loss.detach(), "grad": tower.grad}


@pytest.mark.parametrize("shares", [[2, 3], [1, 3, 1], [2, 1, 2]])
def test_alignment_with_more_processes_equals_one_with_the_whole_batch(shares):
    whole = align(0, 1, [len(SAMPLES)])
    results = run_processes(align, len(shares), shares)
    for result in results:
        assert result["phrases"] == whole["phrases"]
    torch.testing.assert_close(sum(result["loss"] for result in results), whole["loss"])
    grads = torch.stack([result["grad"] for result in results])
    torch.testing.assert_close(grads.mean(0), whole["grad"])


def gather_ranks(rank, world_size):
    batch = PhraseBatch.from_samples([SAMPLES[rank]])
    return gather_phrases(batch, torch.full((len(batch.phrases), 1), float(rank)))[1]


def test_a_phrase_of_several_processes_is_taken_from_the_first():
    # rank 0: cat, a dog, tree; rank 1: tree, cat; rank 2: none; rank 3: sea, a dog
    for embeddings in run_processes(gather_ranks, 4):
        assert embeddings.flatten().tolist() == [0, 0, 0, 3]
