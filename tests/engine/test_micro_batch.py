import contextlib
import functools

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detclip2.data.sample import SkipSample
from detclip2.engine.micro_batch import GradientsInParts
from tests.helpers.processes import run_processes
from tests.helpers.tiny_training import PROJECT, tiny_config

BATCH = 6
SOURCES = ["detection", "grounding", "pairs"]


def model_and_batch(source, drop_path=0.0):
    """The model at fixed weights, and the whole batch: the same in every process."""
    cfg = tiny_config("", drop_path=drop_path)
    # By default a process proposes regions by the phrases of its own batch.
    cfg.model.contrast.proposal_score = "text_sample"
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    for parameter in model.parameters():  # so that no branch begins at zero
        nn.init.normal_(parameter, parameter.mean().item(), 0.05)
    world = LazyConfig.load(str(PROJECT / "configs" / "emoji_nano_all.py"))
    world.world.update(cfg.world)
    for name in SOURCES:  # what any number of processes here can share
        world.dataloader.train[name].total_batch_size = BATCH
    data = instantiate(world.dataloader.train).sources[source]
    samples = []
    for index in range(40):
        with contextlib.suppress(SkipSample):
            samples.append(data.mapper(data.records[index], np.random.default_rng(index)))
        if len(samples) == BATCH:
            break
    assert len(samples) == BATCH
    samples[1]["image"] = samples[1]["image"][:, :40, :]  # parts would be padded differently
    if "instances" in samples[1]:
        boxes = samples[1]["instances"].gt_boxes.tensor
        boxes[:, 3] = boxes[:, 3].clamp(max=40)
        boxes[:, 1] = boxes[:, 1].clamp(max=30)
    return model, samples


def whole(model, samples):
    losses = model(samples)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def whole_in_parallel(model, samples):
    parallel = DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)
    losses, gradients = whole(parallel, samples)
    return losses, {name.removeprefix("module."): g for name, g in gradients.items()}


def in_parts(model, samples, size):
    parts = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)
    losses = parts(samples, size)
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(parts, expected):
    losses, gradients = parts
    expected_losses, expected_gradients = expected
    assert losses.keys() == expected_losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected_losses[name].detach(), rtol=1e-4, atol=1e-6)
    used = {name for name, g in expected_gradients.items() if g.abs().sum() > 0}
    assert len(used) > 20
    assert used <= gradients.keys()
    largest = max(g.abs().max() for g in expected_gradients.values())
    for name in gradients.keys() | used:
        expected = expected_gradients.get(name, torch.zeros(()))
        error = (gradients[name] - expected).abs().max()
        assert error <= 1e-3 * expected.abs().max() + 1e-6 * largest, name


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_parts_give_the_losses_and_gradients_of_the_whole(source, size):
    expected = whole(*model_and_batch(source))
    assert_same(in_parts(*model_and_batch(source), size), expected)


def test_drop_path_drops_the_same_in_both_passes():
    """One part is the whole batch: its two passes must see the network of the plain forward."""
    model, samples = model_and_batch("pairs", drop_path=0.6)
    torch.manual_seed(5)
    expected = whole(model, samples)
    model, samples = model_and_batch("pairs", drop_path=0.6)
    torch.manual_seed(5)
    assert_same(in_parts(model, samples, BATCH), expected)


def in_a_process(rank, world_size):
    """By source: what a process has of the joint batch in one pass, and in parts."""
    results = {}
    for source in SOURCES:
        results[source] = []
        for step in (whole_in_parallel, functools.partial(in_parts, size=1)):
            model, samples = model_and_batch(source)
            losses, gradients = step(model, samples[rank::world_size])
            losses = {n: sum(comm.all_gather(loss.detach())) / world_size
                      for n, loss in losses.items()}  # fmt: skip
            results[source].append((losses, gradients))
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_give_the_losses_and_gradients_of_the_joint_batch(world_size):
    together = run_processes(in_a_process, world_size)
    for source in SOURCES:
        expected = whole(*model_and_batch(source))
        for process in together:
            for way in process[source]:
                assert_same(way, expected)
