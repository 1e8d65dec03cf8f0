"""Optimizations of inference keep results and stay in use; operations are counted, not timed."""

import contextlib

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from detclip2 import OpenVocabularyPredictor
from detclip2.data.emojiscenes import EmojiScenes
from detclip2.modeling.layers import deform_conv, swin_block
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2

NAMES = [f"thing {i}" for i in range(20)]


@pytest.fixture(scope="module")
def models(request):
    return LazyConfig.load(str(request.config.rootpath / "configs/models/detclipv2.py"))


@contextlib.contextmanager
def plain_paths(monkeypatch):
    """Plain sums in convolutions, whole maps in Swin, torchvision's operator for the deformable
    layer."""

    def reference(x, offsets, mask, weight, stride):
        return deform_conv2d(x, offsets, weight, stride=stride, padding=1, mask=mask)

    with monkeypatch.context() as patch, torch.backends.nnpack.flags(enabled=False):
        patch.setattr(deform_conv, "conv_of_rows", reference)
        patch.setattr(swin_block, "is_cpu_inference", lambda module, x: False)
        yield


def image(height=200, width=260):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    return 255 * torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[0]


def random_offsets(model):
    """A trained deformable layer has other offsets than a new one."""
    layer = model.head.deformable.offsets_and_mask
    torch.nn.init.normal_(layer.weight, std=0.01)
    torch.nn.init.normal_(layer.bias)


def scores_and_boxes(model, pixels, vocabulary):
    """Scores (K, C) and boxes (K, 4) of all anchors."""
    outputs = model.encode_images(model.preprocess_image([{"image": pixels}]))
    similarity = model.align(outputs.regions[0], vocabulary)
    scores = (similarity.sigmoid() * outputs.centerness[0].sigmoid()[:, None]).sqrt()
    return scores, outputs.boxes[0]


@torch.no_grad()
def check(model, monkeypatch, pixels, vocabulary):
    model.eval()
    scores, boxes = scores_and_boxes(model, pixels, vocabulary)
    with plain_paths(monkeypatch):
        plain_scores, plain_boxes = scores_and_boxes(model, pixels, vocabulary)
    torch.testing.assert_close(scores, plain_scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes, plain_boxes, atol=0.02, rtol=0)


@pytest.mark.parametrize("size", ["nano", "swin_t"])
def test_scores_at_random_weights(models, monkeypatch, size):
    torch.manual_seed(0)
    config = models[size].copy()
    config.text_tower = None
    model: DetCLIPv2 = instantiate(config)
    random_offsets(model)
    # Similarities with the spread of a trained model.
    model.align.log_scale.data.fill_(1.5)
    model.align.bias.data.fill_(-1)
    check(model, monkeypatch, image(), torch.randn(20, model.embed_dim))


@pytest.fixture(scope="module")
def trained(models):
    """A nano model after some steps on one image, and the image."""
    torch.manual_seed(0)
    model = instantiate(models.nano).train()
    random_offsets(model)
    pixels = image(192, 256)
    instances = Instances((192, 256))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0, 43, 32], [86, 64, 171, 160]]))
    instances.gt_classes = torch.tensor([0, 1])
    sample = {
        "image": pixels,
        "supervision": "detection",
        "phrases": NAMES,
        "num_positives": 2,
        "instances": instances,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(12):
        loss = torch.stack(list(model([sample]).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), pixels


@pytest.mark.slow
def test_scores_after_training(trained, monkeypatch):
    model, pixels = trained
    check(model, monkeypatch, pixels, model.encode_phrases(NAMES).detach())


def test_detections_of_the_model_of_scenes(monkeypatch):
    scenes = EmojiScenes(200, "val", count=1, size=320, seed=1)
    pixels = torch.from_numpy(scenes[0]["image"]).permute(2, 0, 1)
    model = OpenVocabularyPredictor("emoji_nano", device="cpu").model
    model.set_vocabulary(scenes.class_names)
    found = model([{"image": pixels}])[0]["instances"]
    with plain_paths(monkeypatch):
        plain = model([{"image": pixels}])[0]["instances"]
    assert len(found) == len(plain) > 10
    torch.testing.assert_close(found.scores, plain.scores, atol=1e-5, rtol=0)
    # Detections with equal scores can be in either order.
    for score, name, box in zip(
        found.scores, found.pred_classes, found.pred_boxes.tensor, strict=True
    ):
        same = (plain.pred_classes == name) & ((plain.scores - score).abs() < 1e-5)
        near = (plain.pred_boxes.tensor - box).abs().amax(1) < 0.05
        assert (same & near).any()


def macs(model, names, pixels=(64, 64)):
    """Multiply-adds from an image to its detections."""
    model.set_vocabulary(torch.ones(names, model.embed_dim))
    with torch.backends.nnpack.flags(enabled=False), FlopCounterMode(display=False) as counter:
        model([{"image": torch.zeros(3, *pixels)}])
    return counter.get_total_flops() // 2


def test_a_name_costs_one_product_with_each_anchor(tiny_model):
    """The text tower is not run, for any number of names."""
    model = tiny_model.eval()
    anchors = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
    few, many = macs(model, 10), macs(model, 250)
    assert many - few == 240 * anchors * model.embed_dim


def test_anchors_without_centerness_are_not_compared(tiny_model):
    """Below the square of the score threshold, no similarity makes them detections."""
    model = tiny_model.eval()
    before = macs(model, 100)
    torch.nn.init.zeros_(model.head.centerness.weight)
    torch.nn.init.constant_(model.head.centerness.bias, -10)
    anchors = 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1
    assert before - macs(model, 100) == 100 * anchors * model.embed_dim


def test_the_deformable_layer_multiplies_each_location_once(tiny_model):
    layer = tiny_model.head.deformable.eval()
    channels = tiny_model.head.region.in_channels
    x = torch.randn(1, channels, 40, 30)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x, torch.zeros(1, 27, 40, 30))
    assert counter.get_total_flops() // 2 == 40 * 30 * 9 * channels * channels


def test_an_image_runs_no_text_tower(tiny_model, monkeypatch):
    model = tiny_model.eval()
    calls = []
    encode = model.text_tower.forward
    monkeypatch.setattr(
        model.text_tower, "forward", lambda phrases: calls.append(len(phrases)) or encode(phrases)
    )
    model.set_vocabulary(NAMES)
    for _ in range(3):
        model([{"image": torch.zeros(3, 64, 64)}, {"image": torch.zeros(3, 64, 96)}])
    assert calls == [len(NAMES)]


@pytest.mark.parametrize("own", [False, True])
def test_a_vocabulary_is_prepared_once_and_not_for_each_image(tiny_model, monkeypatch, own):
    model = tiny_model.eval()
    prepared = []
    phrases = model.align.phrases
    monkeypatch.setattr(model.align, "phrases", lambda x: prepared.append(len(x)) or phrases(x))
    embeddings = model.encode_phrases(NAMES)
    samples = [{"image": torch.zeros(3, 64, 64)}, {"image": torch.zeros(3, 64, 96)}]
    model.set_vocabulary(embeddings)
    state = model.prepare_vocabulary(embeddings)
    if own:
        samples = [{**sample, "vocabulary": state} for sample in samples]
    for _ in range(3):
        model(samples)
    assert prepared == [len(NAMES)]
    prepared.clear()
    model([{**sample, "vocabulary": embeddings} for sample in samples])
    assert prepared == [len(NAMES)], "samples of a call that share embeddings"


def test_a_batch_encodes_each_phrase_once(tiny_model, monkeypatch):
    """In training too: phrases shared by samples are encoded once."""
    calls = []
    encode = tiny_model.text_tower.forward
    monkeypatch.setattr(
        tiny_model.text_tower, "forward", lambda phrases: calls.append(phrases) or encode(phrases)
    )
    samples = [
        {
            "image": torch.zeros(3, 64, 64),
            "supervision": "caption",
            "phrases": ["a cat", "a dog", f"thing {i % 2}"],
            "num_positives": 3,
        }
        for i in range(4)
    ]
    tiny_model(samples)
    assert len(calls) == 1
    assert sorted(calls[0]) == ["a cat", "a dog", "thing 0", "thing 1"]
