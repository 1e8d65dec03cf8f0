"""The whole model in training, at a small size: every kind of batch, and every odd one."""

import copy
import math
from typing import get_args

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes
from torch.nn.parallel import DistributedDataParallel

from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.proposals import ProposalScore
from detclip2.utils.errors import UserError
from tests.helpers.detclip_samples import NAMES, assert_same, captions, image, sample, without_boxes
from tests.helpers.processes import run_processes

LOSSES = {
    "detection": {"loss_align", "loss_box", "loss_centerness"},
    "grounding": {"loss_align"},
    "caption": {"loss_contrast"},
}


BOX_BRANCH = {
    "head.box.weight",
    "head.box.bias",
    "head.centerness.weight",
    "head.centerness.bias",
    "head.scales",
}


BATCHES = {
    "two images": [sample(), sample(seed=1, phrases=["tree", "bird"])],
    "one image": [sample()],
    "no boxes": [without_boxes(), without_boxes(seed=1)],
    "no boxes, no phrases": [without_boxes(phrases=[])],
    "half without boxes": [sample(), without_boxes(seed=1)],
    "one phrase": [sample(classes=(0, 0), phrases=["dog"])],
    "the same phrases": [sample(), sample(seed=1, phrases=["cat", "dog", "sky"])],
    "many phrases": [sample(phrases=["dog", "cat", *(f"thing {i}" for i in range(1000))])],
    "a box twice": [sample(boxes=[(10, 8, 50, 40)] * 2, classes=(0, 1))],
    "a tiny box": [sample(boxes=[(10, 8, 10.5, 8.5)], classes=(0,))],
    "other sizes": [sample(), {**sample(), "image": image(40, 130)}],
}


@pytest.mark.parametrize("source", ["detection", "grounding"])
@pytest.mark.parametrize("batch", BATCHES)
def test_boxes_teach(tiny_model, batch, source):
    samples = [{**s, "source": source} for s in BATCHES[batch]]
    losses = tiny_model(samples)
    assert set(losses) == LOSSES[source]
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert loss.isfinite(), name
    if all(len(s["instances"]) == 0 for s in samples) and source == "detection":
        assert losses["loss_box"] == 0
        assert losses["loss_centerness"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in tiny_model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "samples",
    [
        captions(),
        captions()[:1],
        [sample(source="caption", phrases=[], num_positives=0)],
        [*captions(), sample(source="caption", phrases=[], num_positives=0)],
        [{**captions()[0], "phrases": [f"word {i}" for i in range(1000)], "num_positives": 1000}],
    ],
    ids=["two", "one", "without phrases", "one without phrases", "many phrases"],
)
def test_captions_teach(tiny_model, samples):
    losses = tiny_model(samples)
    assert set(losses) == LOSSES["caption"]
    assert losses["loss_contrast"].isfinite()
    losses["loss_contrast"].backward()
    assert all(p.grad.isfinite().all() for p in tiny_model.parameters() if p.grad is not None)


@pytest.mark.parametrize("samples", [[sample()], captions()], ids=["boxes", "captions"])
def test_training_stops_at_a_broken_image(tiny_model, samples):
    broken = samples[0]["image"].float()
    broken[0, 10, 10] = math.nan
    samples = [{**samples[0], "image": broken}, *samples[1:]]
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    trainer = SimpleTrainer(tiny_model, [samples], optimizer)
    with pytest.raises(FloatingPointError):
        trainer.train(0, 1)


def test_a_batch_of_two_sources_is_refused(tiny_model):
    with pytest.raises(
        ValueError, match=r"one source, but this one has \['caption', 'detection'\]"
    ):
        tiny_model([sample(), *captions()])


def test_captions_without_contrast_are_refused(tiny_model):
    tiny_model.contrast = None
    with pytest.raises(UserError, match="no `contrast`"):
        tiny_model(captions())


SCORES = get_args(ProposalScore)


def with_score(config, score):
    """The model that chooses proposals so, and predicts what that takes."""
    config = copy.deepcopy(config)
    config.contrast.proposal_score = score
    config.head.objectness = score if score in ("class", "iou") else None
    torch.manual_seed(0)
    return instantiate(config).train()


def train(model, samples_of_steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for samples in samples_of_steps:
        optimizer.zero_grad()
        losses = model(samples)
        sum(losses.values()).backward()
        optimizer.step()
        yield {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("score", SCORES)
def test_every_proposal_score_trains(tiny_config, score):
    model = with_score(tiny_config, score)
    before = copy.deepcopy(model.state_dict())
    batches = [BATCHES["two images"], captions(), BATCHES["no boxes"], captions()]
    for samples, losses in zip(batches, train(model, batches), strict=True):
        expected = LOSSES[samples[0]["source"]]
        if samples[0]["source"] == "detection" and score in ("class", "iou"):
            expected = expected | {"loss_objectness"}
        assert losses.keys() == expected
        assert all(map(math.isfinite, losses.values()))
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert {"head.region.weight", "text_tower.projection.weight"} <= moved
    assert ("head.objectness.weight" in moved) == (score in ("class", "iou"))
    model.eval().set_vocabulary(NAMES)
    assert len(model([{"image": image()}])[0]["instances"]) >= 0


def train_in_parallel(rank, world_size, config):
    """The losses and the weights of each proposal score's model after three steps."""
    results = []
    for score in SCORES:
        model = DistributedDataParallel(
            with_score(config, score), broadcast_buffers=False, find_unused_parameters=True
        )
        mine = slice(rank, rank + 1)
        batches = [BATCHES["two images"][mine], captions()[mine], BATCHES["no boxes"][mine]]
        losses = list(train(model, batches))
        parameters = torch.cat([p.detach().flatten() for p in model.module.parameters()])
        results.append((losses, parameters))
    return results


def test_every_proposal_score_trains_in_two_processes(tiny_config):
    first, second = run_processes(train_in_parallel, 2, tiny_config)
    for score, (losses, weights), (others, same_weights) in zip(SCORES, first, second, strict=True):
        for step in (*losses, *others):
            assert all(map(math.isfinite, step.values())), score
        assert losses[1].keys() == {"loss_contrast"}
        assert losses[1]["loss_contrast"] > 0
        assert losses != others, "each process has images of its own"
        assert torch.equal(weights, same_weights), score
    for n, m in ((0, 2), (1, 2)):  # "class" and "iou" are not "centerness"
        assert first[n][0][1] != first[m][0][1]


@pytest.mark.parametrize(
    ("score", "objectness"), [("iou", None), ("class", None), ("iou", "class"), ("class", "iou")]
)
def test_a_score_that_the_head_does_not_predict_is_told_at_once(tiny_config, score, objectness):
    tiny_config.contrast.proposal_score = score
    tiny_config.head.objectness = objectness
    sentence = f"proposal_score is '{score}', which .* head.objectness is {objectness!r}"
    with pytest.raises(UserError, match=sentence):
        instantiate(tiny_config)


def test_objectness_changes_no_detection(tiny_config):
    plain = with_score(tiny_config, "text_batch").eval()
    model = with_score(tiny_config, "iou").eval()
    model.load_state_dict({**model.state_dict(), **plain.state_dict()})
    outputs = []
    for each in (plain, model):
        each.postprocess.score_threshold = 0.0
        each.set_vocabulary(NAMES)
        outputs.append(each([{"image": image()}])[0]["instances"])
    assert len(outputs[0]) > 0
    assert_same(*outputs)


def test_a_phrase_of_several_samples_is_encoded_once(tiny_model, monkeypatch):
    encoded = []
    text = tiny_model.text
    monkeypatch.setattr(
        tiny_model, "text", lambda phrases: encoded.extend(phrases) or text(phrases)
    )
    tiny_model(BATCHES["the same phrases"])
    assert encoded == ["dog", "cat", "tree", "sky"]


def test_the_model_learns(tiny_model):
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=5e-3)
    first = last = math.inf
    for step in range(25):
        losses = tiny_model(BATCHES["two images"])
        last = sum(losses.values())
        first = last.item() if step == 0 else first
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert last < 0.7 * first


def test_half_precision(tiny_model):
    for samples in (BATCHES["two images"], captions()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = tiny_model(samples)
        exact = tiny_model(samples)
        for name, loss in losses.items():
            torch.testing.assert_close(loss.float(), exact[name], rtol=0.1, atol=0.05)
        sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in tiny_model.parameters())


def without_gradient(model, *batches):
    """Names of parameters that the batches leave without gradient, or with one of zero."""
    model.zero_grad(set_to_none=True)
    for samples in batches:
        sum(model(samples).values()).backward()
    return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}


@pytest.fixture(params=["resnet10t", "swin_tiny_patch4_window7_224"])
def any_backbone(request, tiny_config):
    if request.param.startswith("swin"):
        bottom_up = tiny_config.backbone.bottom_up
        for key in ("layers", "channels", "stem_width"):
            del bottom_up[key]
        bottom_up.update(name=request.param, embed_dim=8, depths=[2, 2, 2, 2], norm_outputs=True)
        bottom_up.update(num_heads=[1, 2, 2, 4], window_size=2)
    torch.manual_seed(0)
    model = instantiate(tiny_config).train()
    for parameter in model.parameters():
        # Where a branch starts with weights of zero, nothing flows through what is before it.
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def test_every_parameter_has_a_gradient(any_backbone):
    assert without_gradient(any_backbone, BATCHES["two images"], captions()) == set()


def test_parameters_that_a_source_does_not_teach(any_backbone):
    assert without_gradient(any_backbone, BATCHES["two images"]) == set()
    grounding = [{**s, "source": "grounding"} for s in BATCHES["two images"]]
    assert without_gradient(any_backbone, grounding) == BOX_BRANCH
    # In a softmax over images, a bias common to all similarities cancels. A level of the pyramid
    # learns when a word has found its region there.
    untaught = without_gradient(any_backbone, captions())
    assert {n for n in untaught if not n.startswith("backbone.")} == BOX_BRANCH | {"align.bias"}
    assert not any("bottom_up" in name for name in untaught)


def test_proposals_of_captions_are_cut_to_their_images(tiny_model):
    images = tiny_model.preprocess_images([{"image": image(40, 70)}, {"image": image(64, 96)}])
    predictions, anchors = tiny_model.predict(images)
    predictions = predictions._replace(deltas=5 * torch.randn(predictions.deltas.shape))
    boxes = tiny_model.decode(predictions, anchors, images)
    assert boxes.shape == predictions.deltas.shape
    for image_boxes, deltas, size in zip(
        boxes, predictions.deltas, images.image_sizes, strict=True
    ):
        expected = Boxes(tiny_model.box_transform.apply_deltas(deltas, Boxes.cat(anchors).tensor))
        expected.clip(size)
        torch.testing.assert_close(image_boxes, expected.tensor)
        assert image_boxes.amax(0).tolist() == [size[1], size[0], size[1], size[0]]


def test_what_detectron2_reads(tiny_model):
    assert META_ARCH_REGISTRY.get("DetCLIPv2") is DetCLIPv2
    assert tiny_model.input_format == "RGB"
    assert tiny_model.device.type == "cpu"
    assert not any("pixel" in name for name in tiny_model.state_dict())
