import pytest
import torch

from detclip2.modeling.text.text_batch import TextBatch
from tests.helpers.processes import run_processes

SAMPLES = [
    {"phrases": ["cat", "a dog", "tree"], "num_positives": 2},
    {"phrases": ["tree", "cat"], "num_positives": 1, "own_phrases_only": True},
    {"phrases": [], "num_positives": 0},
    {"phrases": ["sea", "a dog"], "num_positives": 1, "not_exhaustive": torch.tensor([0])},
    {"phrases": ["Cat"], "num_positives": 1},
]


def text_of(samples, width=4):
    return TextBatch.from_samples(samples, lambda phrases: torch.zeros(len(phrases), width))


def test_phrases_are_distinct_and_in_the_order_of_first_appearance():
    batch = text_of(SAMPLES)
    assert len(batch) == len(SAMPLES)
    assert batch.phrases == ["cat", "a dog", "tree", "sea", "Cat"]
    for sample, index in zip(SAMPLES, batch.index, strict=True):
        assert [batch.phrases[i] for i in index] == sample["phrases"]
    assert batch.positives(3).tolist() == [3]


def test_columns_are_the_phrases_of_the_boxes():
    text = text_of(SAMPLES)
    box, column = text.columns_of(1, torch.tensor([0, 1, 0]))
    assert box.tolist() == [0, 1, 2]
    assert column.tolist() == [2, 0, 2]
    for nothing in text.columns_of(3, torch.tensor([], dtype=torch.int64)):
        assert nothing.tolist() == []


def test_a_micro_batch_has_the_phrases_of_the_batch():
    text = text_of(SAMPLES)
    part = text.part(slice(3, 5))
    assert len(part) == 2
    assert part.phrases == text.phrases
    assert part.positives(0).tolist() == [3]
    assert part.negatives_valid().tolist() == text.negatives_valid()[3:].tolist()


def test_a_detached_text_batch_propagates_its_gradients():
    weight = torch.ones(5, 2, requires_grad=True)
    text = TextBatch.from_samples(SAMPLES, lambda phrases: 3 * weight)
    detached = text.detach()
    for part in (slice(0, 2), slice(2, 5)):
        (detached.part(part).embeddings * torch.arange(5.0)[:, None]).sum().backward()
    assert weight.grad is None
    text.backward(detached)
    assert weight.grad[:, 0].tolist() == [0, 6, 12, 18, 24]


def test_phrases_that_may_be_present_are_not_negatives():
    expected = [
        [True, True, True, True, True],
        [True, False, True, False, False],  # its own phrases only
        [True, True, True, True, True],
        [True, True, True, False, True],  # "sea" is not boxed exhaustively
        [True, True, True, True, True],
    ]
    assert text_of(SAMPLES).negatives_valid().tolist() == expected


def test_a_batch_without_phrases():
    text = text_of([SAMPLES[2]])
    assert text.phrases == []
    assert text.negatives_valid().shape == (1, 0)
    gathered = text.gather()
    assert gathered.phrases == []
    assert gathered.embeddings.shape == (0, 4)


def test_every_phrase_needs_its_embedding():
    with pytest.raises(ValueError, match="4 embeddings for 5 phrases"):
        TextBatch.from_samples(SAMPLES, lambda phrases: torch.zeros(4, 2))


def align(rank, world_size, shares):
    """One process's part of a step: encode its phrases, align its regions with all phrases."""
    samples = SAMPLES[sum(shares[:rank]) : sum(shares[: rank + 1])]
    letters = torch.randn(128, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tower = torch.nn.Parameter(letters)
    regions = torch.randn(
        len(SAMPLES), 4, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    ).split(shares)[rank]

    def encode(phrases):
        words = [tower[[ord(c) for c in phrase]].mean(0) for phrase in phrases]
        return torch.stack(words) if words else tower[:0]

    batch = TextBatch.from_samples(samples, encode).gather()
    similarity = regions @ batch.embeddings.T
    # Anchor 0 of each image is on its first positive phrase, the others are on none.
    target = torch.zeros_like(similarity)
    valid = batch.negatives_valid()[:, None].expand_as(similarity).clone()
    for b in range(len(batch)):
        for m in batch.columns_of(b, torch.arange(min(1, batch.num_positives[b])))[1]:
            target[b, 0, m], valid[b, 0, m] = 1, True
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        similarity, target, weight=valid, reduction="sum"
    )
    (loss * world_size).backward()  # the mean over processes is the sum of their shares
    return {"phrases": batch.phrases, "loss": loss.detach(), "grad": tower.grad}


@pytest.mark.parametrize("shares", [[2, 3], [1, 3, 1], [2, 1, 2]])
@pytest.mark.processes
def test_alignment_on_processes_equals_alignment_on_the_whole_batch(shares):
    whole = align(0, 1, [len(SAMPLES)])
    results = run_processes(align, len(shares), shares)
    for result in results:
        assert result["phrases"] == whole["phrases"]
    torch.testing.assert_close(sum(result["loss"] for result in results), whole["loss"])
    grads = torch.stack([result["grad"] for result in results])
    torch.testing.assert_close(grads.mean(0), whole["grad"])


def gather_ranks(rank, world_size):
    text = TextBatch.from_samples(
        [SAMPLES[rank]], lambda phrases: torch.full((len(phrases), 1), float(rank))
    )
    return text.gather().embeddings


@pytest.mark.processes
def test_a_phrase_of_several_processes_is_taken_from_the_first():
    # rank 0: cat, a dog, tree; rank 1: tree, cat; rank 2: none; rank 3: sea, a dog
    for embeddings in run_processes(gather_ranks, 4):
        assert embeddings.flatten().tolist() == [0, 0, 0, 3]
