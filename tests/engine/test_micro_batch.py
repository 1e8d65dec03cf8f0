import contextlib
import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detclip2.data.sample import SkipSample
from detclip2.engine.micro_batch import GradientsInParts
from detclip2.modeling.alignment import Alignment
from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.backbone import TimmBackbone
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.meta_arch.base import RGB_MEAN, RGB_STD, OpenVocabularyDetector
from detclip2.modeling.text.text_batch import TextBatch
from tests.helpers.processes import run_processes
from tests.helpers.tiny_glip import tiny_glip, tiny_glipv2, without_randomness
from tests.helpers.tiny_training import PROJECT, tiny_config

BATCH = 6
SOURCES = ["detection", "grounding", "pairs"]
GLIP_SOURCES = ["glip_detection", "glip_grounding", "glipv2_detection", "glipv2_grounding"]


def model_and_batch(source, drop_path=0.0):
    """The model with fixed weights, and the whole batch: the same in every process."""
    if source in GLIP_SOURCES:
        return copy.deepcopy(glip_and_batch(source))
    return copy.deepcopy(one_model_and_batch(source, drop_path))


@functools.cache
def one_model_and_batch(source, drop_path):
    """Those that `model_and_batch` copies."""
    cfg = tiny_config("", drop_path=drop_path)
    # By default, a process chooses proposals by the phrases of its own batch.
    cfg.model.contrast.proposal_score = "text_sample"
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    for parameter in model.parameters():  # so that no branch starts with zero output
        nn.init.normal_(parameter, parameter.mean().item(), 0.05)
    return model, samples_of(PROJECT / "configs" / "emoji_nano_all.py", source)


@functools.cache
def glip_and_batch(source):
    """The same of GLIP, whose head reads the captions, and of GLIPv2, with a contrast on boxes."""
    config = PROJECT.parent / "GLIPv2" / "configs" / "emoji_glip_nano.py"
    model, supervision = source.split("_")
    make = tiny_glip if model == "glip" else tiny_glipv2
    return without_randomness(make()), samples_of(config, supervision)


def samples_of(config, source):
    """A batch of a source of EmojiScenes; one image is smaller than the others."""
    cfg = LazyConfig.load(str(config))
    cfg.world.update(tiny_config("").world)
    data = instantiate(cfg.dataloader.train[source])
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
    return samples


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
@pytest.mark.parametrize("source", SOURCES + GLIP_SOURCES)
def test_micro_batches_give_the_losses_and_gradients_of_the_whole_batch(source, size):
    expected = whole(*model_and_batch(source))
    assert_same(in_parts(*model_and_batch(source), size), expected)


def test_drop_path_is_equal_in_both_passes():
    """With one micro-batch, both passes must drop the same paths as the plain forward."""
    model, samples = model_and_batch("pairs", drop_path=0.6)
    torch.manual_seed(5)
    expected = whole(model, samples)
    model, samples = model_and_batch("pairs", drop_path=0.6)
    torch.manual_seed(5)
    assert_same(in_parts(model, samples, BATCH), expected)


def in_a_process(rank, world_size):
    """By source: losses and gradients of a process on the joint batch, in one pass and in parts."""
    results = {}
    for source in SOURCES + GLIP_SOURCES:
        results[source] = []
        for step in (whole_in_parallel, functools.partial(in_parts, size=1)):
            model, samples = model_and_batch(source)
            losses, gradients = step(model, samples[rank::world_size])
            losses = {n: sum(comm.all_gather(loss.detach())) / world_size
                      for n, loss in losses.items()}  # fmt: skip
            results[source].append((losses, gradients))
    return results


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.processes
def test_processes_together_give_the_losses_and_gradients_of_the_joint_batch(world_size):
    together = run_processes(in_a_process, world_size)
    for source in SOURCES + GLIP_SOURCES:
        expected = whole(*model_and_batch(source))
        for process in together:
            for way in process[source]:
                assert_same(way, expected)


class FusedText(TextBatch):
    """Text whose columns are tokens: each phrase has two."""

    def columns_of(self, b, gt_classes):
        box, phrase = super().columns_of(b, gt_classes)
        return box.repeat_interleave(2), torch.stack([2 * phrase, 2 * phrase + 1], dim=1).flatten()

    def negatives_valid(self, device="cpu"):
        return super().negatives_valid(device).repeat_interleave(2, dim=1)


class FusedModel(OpenVocabularyDetector):
    """As in GLIPv2, the head reads the text, and a batch with boxes has losses of both kinds.

    Everything is minimal; only methods of the protocol are called.
    """

    embed_dim = 4

    def __init__(self):
        super().__init__(RGB_MEAN, RGB_STD, ())
        self.backbone = TimmBackbone(
            "resnet10t",
            drop_path_rate=0.0,
            norm_outputs=True,
            layers=(1, 1, 1, 1),
            channels=(8,) * 4,
        ).eval()
        self.tokens = nn.Embedding(256, 4)
        self.image = nn.LazyConv2d(4, 1)
        self.fusion = nn.Linear(4, 4)
        self.criterion = DetectionCriterion(ATSSAssigner())
        self.align = Alignment()
        self.contrast = WordRegionContrast(num_proposals=5, proposal_score="centerness")
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[32]], aspect_ratios=[[1.0]], strides=[8], offset=0.5
        )

    def encode(self, phrases):
        codes = torch.tensor([[ord(p[0]) % 256, ord(p[-1]) % 256] for p in phrases])
        return self.tokens(codes.reshape(-1, 2)).flatten(1)  # (M, 2 tokens x 4)

    def encode_text(self, samples):
        return FusedText.from_samples(samples, self.encode).gather()

    def states(self, text):
        return text.embeddings.view(-1, 4)  # (2 M, 4)

    def encode_images(self, images, text=None):
        x = self.image(self.backbone(images.tensor)["c3"])
        # Each image attends to the tokens of its own phrases.
        own = [text.embeddings[index].view(-1, 4).mean(0) for index in text.index]
        x = x * (1 + self.fusion(torch.stack(own)))[:, :, None, None]
        regions = x.flatten(2).transpose(1, 2)
        return HeadOutputs(
            regions,
            regions.tanh(),
            regions.sum(dim=2),
            anchors=self.anchor_generator([x]),
            image_sizes=images.image_sizes,
            box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        )

    def image_losses(self, outputs, text, samples, counts=None):
        similarity = self.align(outputs.regions, self.states(text))
        return self.criterion(similarity, outputs, text, samples, counts)

    def loss_counts(self, outputs, text, samples):
        return self.criterion.counts(outputs, text, samples)

    def has_contrast(self, samples):
        return True

    def contrast_regions(self, outputs, text, samples):
        return self.contrast.regions(outputs, self.pooled(text), self.align)

    def contrast_losses(self, regions, text):
        return self.contrast.losses(regions, self.pooled(text), self.align)

    def pooled(self, text):
        """Phrases as the mean of their tokens."""
        pooled = text.embeddings.view(-1, 2, 4).mean(dim=1)
        return dataclasses.replace(text, embeddings=pooled)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_model_with_fused_text_and_both_kinds_of_losses(size):
    _, samples = model_and_batch("detection")
    torch.manual_seed(0)
    model = FusedModel()
    model(samples)  # the lazy layer
    model.backbone.eval()
    expected_losses, expected = whole(model, samples)
    assert expected_losses.keys() == {"loss_align", "loss_box", "loss_centerness", "loss_contrast"}
    assert all(loss > 0 for loss in expected_losses.values())
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    assert {"tokens.weight", "fusion.weight", "image.weight"} <= expected.keys()
    model.zero_grad(set_to_none=True)
    assert_same(in_parts(model, samples, size), (expected_losses, expected))
