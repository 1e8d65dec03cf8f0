"""The formula of what a process sends, against what collectives of real processes are given."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from detclip2.engine.network_cost import sent_to_gather, sent_to_reduce, step_traffic
from tests.helpers.detclip_samples import sample
from tests.helpers.processes import run_processes
from tests.helpers.tiny_detector import config

PHRASES, TEXTS, WIDTH = 4, 2, 16


def size_of(tensor):
    return tensor.numel() * tensor.element_size()


def counted_step(rank, world_size, supervision):
    """Bytes that a step sends by collectives in a ring, and its number of gathers of objects."""
    torch.manual_seed(0)
    model = instantiate(config()).train()
    parallel = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
    sent = {"gradients": 0.0, "rest": 0.0, "objects": 0.0}

    def hook(state, bucket):
        sent["gradients"] += sent_to_reduce(size_of(bucket.buffer()), world_size)
        return allreduce_hook(state, bucket)

    parallel.register_comm_hook(None, hook)
    gather, reduce = dist.all_gather, dist.all_reduce

    def counted_gather(everyone, mine, *args, **kwargs):
        if mine.is_floating_point():
            sent["rest"] += sent_to_gather(size_of(mine), world_size)
        return gather(everyone, mine, *args, **kwargs)

    def counted_reduce(tensor, *args, **kwargs):
        # The divisors of losses are two numbers, and the hook's are counted there.
        if tensor.numel() > 2 and not kwargs.get("async_op"):
            sent["rest"] += sent_to_reduce(size_of(tensor), world_size)
        return reduce(tensor, *args, **kwargs)

    gather_objects = comm.all_gather

    def counted_objects(*args, **kwargs):
        sent["objects"] += 1
        return gather_objects(*args, **kwargs)

    dist.all_gather, dist.all_reduce = counted_gather, counted_reduce
    comm.all_gather = counted_objects
    try:
        sum(parallel(batch(rank, supervision)).values()).backward()
    finally:
        dist.all_gather, dist.all_reduce, comm.all_gather = gather, reduce, gather_objects
    sent["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in sent.items()}


def counted_steps(rank, world_size):
    return [counted_step(rank, world_size, kind) for kind in ("detection", "caption")]


def batch(rank, supervision):
    """Two samples whose four phrases no other process has."""
    samples = []
    for number in range(TEXTS):
        phrases = [f"thing {rank} {number} {i}" for i in range(PHRASES // TEXTS)]
        more = {"num_positives": 2} if supervision == "caption" else {}
        samples.append(sample(phrases=phrases, supervision=supervision, seed=number, **more))
    return samples


@pytest.mark.processes
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_step_sends_what_the_formula_says(processes):
    for sent_by_process in run_processes(counted_steps, processes):
        for texts, sent in zip((0, TEXTS), sent_by_process, strict=True):
            expected = step_traffic(int(sent["parameters"]), processes, PHRASES, WIDTH, texts)
            assert sent["gradients"].item() == pytest.approx(expected.gradients)
            assert sent["objects"].item() == 1  # each one waits for the slowest process
            assert sent["rest"].item() == pytest.approx(expected.phrases + expected.scores)


def test_one_process_sends_nothing():
    assert step_traffic(10**8, 1, 700, 256, 100).total == 0


def test_regions_would_be_fourteen_times_as_much_as_words():
    """An image of the paper has 100 proposals and about 7 phrases (sec. 3.2)."""
    words = step_traffic(0, 64, 96 * 7, 256, 96)
    regions = step_traffic(0, 64, 96 * 100, 256)
    assert regions.phrases / words.phrases == pytest.approx(100 / 7)
    assert words.scores < 0.2 * words.phrases
