from itertools import islice

import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils.env import seed_all_rng


@pytest.fixture
def as_process(monkeypatch):
    def as_process(rank, world_size):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)

    return as_process


def take(sampler, count):
    return list(islice(sampler, count))


def test_each_epoch_has_each_index_in_another_order():
    stream = take(TrainingSampler(20, seed=1), 60)
    epochs = [stream[:20], stream[20:40], stream[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert take(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_the_seed_determines_the_stream():
    assert take(TrainingSampler(20, seed=1), 50) == take(TrainingSampler(20, seed=1), 50)
    assert take(TrainingSampler(20, seed=1), 50) != take(TrainingSampler(20, seed=2), 50)
    sampler = TrainingSampler(20, seed=1)
    assert take(sampler, 50) == take(sampler, 50)
    seed_all_rng(5)
    first = TrainingSampler(20)
    seed_all_rng(5)
    second = TrainingSampler(20)
    seed_all_rng(6)
    assert take(first, 50) == take(second, 50)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingSampler(5, seed=4),
        lambda: RepeatFactorTrainingSampler(torch.tensor([1.0, 2.5, 1.25]), seed=4),
    ],
)
def test_processes_share_one_stream(as_process, make):
    whole = take(make(), 60)
    for rank in range(3):
        as_process(rank, 3)
        assert take(make(), 20) == whole[rank::3]


def test_size_is_a_positive_int():
    with pytest.raises(TypeError):
        TrainingSampler(3.0)
    with pytest.raises(ValueError):  # noqa: PT011
        TrainingSampler(0)
    with pytest.raises(AssertionError):
        InferenceSampler(0)


def test_repeats():
    whole = RepeatFactorTrainingSampler(torch.tensor([1.0, 3.0, 2.0]), seed=0)
    epochs = take(whole, 12)
    assert sorted(epochs[:6]) == sorted(epochs[6:]) == [0, 1, 1, 1, 2, 2]
    ordered = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0]), shuffle=False, seed=0)
    assert take(ordered, 6) == [0, 1, 1, 0, 1, 1]
    stream = torch.tensor(
        take(RepeatFactorTrainingSampler(torch.tensor([1.0, 1.5, 2.25]), seed=0), 19000)
    )
    counts = torch.bincount(stream).float()
    assert torch.allclose(counts / counts[0], torch.tensor([1.0, 1.5, 2.25]), atol=0.05)


def test_repeat_factors_of_lvis():
    images = [[0, 0, 1], [0], [0, 2], []]
    records = [{"annotations": [{"category_id": c} for c in image]} for image in images]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    # Categories 0, 1 and 2 are in 3/4, 1/4 and 1/4 of the images.
    assert torch.allclose(factors(records, 0.5), torch.tensor([2**0.5, 1, 2**0.5, 1]))
    assert torch.allclose(factors(records, 0.9), torch.tensor([3.6**0.5, 1.2**0.5, 3.6**0.5, 1]))
    assert torch.allclose(factors(records, 0.5, sqrt=False), torch.tensor([2.0, 1, 2, 1]))


@pytest.mark.parametrize(("size", "world_size"), [(1, 1), (7, 3), (2, 4), (8, 4), (100, 7)])
def test_inference_sees_all_once(as_process, size, world_size):
    shares = []
    for rank in range(world_size):
        as_process(rank, world_size)
        sampler = InferenceSampler(size)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert [index for share in shares for index in share] == list(range(size))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
