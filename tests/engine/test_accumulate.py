import contextlib

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from processes import run_processes
from tiny_training import tiny_config
from torch import nn

from detclip2.data.phrases import SkipSample
from detclip2.engine.accumulate import GradientsInParts

BATCH = 4


def model_and_batch(source, drop_path=0.0):
    """The model at fixed weights, and the whole batch: the same in every process."""
    cfg = tiny_config("", drop_path=drop_path)
    # By default a process proposes regions by the phrases of its own batch.
    cfg.model.contrast.proposal_score = "text_sample"
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    for parameter in model.parameters():  # so that no branch begins at zero
        nn.init.normal_(parameter, parameter.mean().item(), 0.05)
    sources = instantiate(cfg.dataloader.train).sources
    samples = []
    for index in range(40):
        with contextlib.suppress(SkipSample):
            mapper, records = sources[source].mapper, sources[source].records
            samples.append(mapper(records[index], np.random.default_rng(index)))
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


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("source", ["detection", "pairs"])
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
    results = {}
    for source in ("detection", "pairs"):
        model, samples = model_and_batch(source)
        share = samples[rank::world_size]
        losses, gradients = in_parts(model, share, 1)
        losses = {name: sum(comm.all_gather(loss)) / world_size for name, loss in losses.items()}
        results[source] = (losses, gradients)
    return results


def test_two_processes_in_parts_give_those_of_the_joint_batch():
    together = run_processes(in_a_process, 2)
    for source in ("detection", "pairs"):
        expected = whole(*model_and_batch(source))
        for process in together:
            assert_same(process[source], expected)
