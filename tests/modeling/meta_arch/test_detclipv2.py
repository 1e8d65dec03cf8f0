"""The whole model in training, at a small size, with every kind of batch and degenerate ones."""

import contextlib
import copy
import math
from typing import get_args

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes
from torch.nn.parallel import DistributedDataParallel

from detclip2.engine.micro_batch import GradientsInParts
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.proposals import ProposalScore
from detclip2.modeling.protocol import ExplainableModel
from detclip2.utils.errors import UserError
from tests.helpers.degenerate_inputs import BATCHES, DegenerateInputs
from tests.helpers.detclip_samples import (
    NAMES,
    assert_same,
    captions,
    image,
    sample,
    set_score_threshold,
)
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


class TestDegenerateInputs(DegenerateInputs):
    losses = LOSSES

    @pytest.fixture
    def model(self, tiny_model):
        return tiny_model

    @pytest.fixture
    def detector(self, detector):
        return detector


def test_captions_without_contrast_are_refused(tiny_model):
    tiny_model.contrast = None
    with pytest.raises(UserError, match="no `contrast`"):
        tiny_model(captions())


@pytest.mark.parametrize("supervision", ["vqa", "presence"])
def test_a_supervision_without_losses_is_refused(tiny_model, supervision):
    with pytest.raises(UserError, match=f"no losses for the supervision '{supervision}'"):
        tiny_model([sample(supervision=supervision)])


class PresenceLoss(torch.nn.Module):
    """The mean over images of the best similarity with their positives."""

    supervisions = ("presence",)

    def forward(self, similarity, outputs, text, samples, counts=None):
        found = [similarity[b, :, text.positives(b)].max() for b in range(len(samples))]
        return {"loss_presence": sum(found) / (counts or self.counts(outputs, text, samples))}

    def counts(self, outputs, text, samples):
        return len(samples)


def test_extra_losses_are_for_their_supervision_alone(tiny_config):
    models = []
    for extra in ([], [LazyCall(PresenceLoss)()]):
        torch.manual_seed(0)
        models.append(instantiate({**tiny_config, "extra_losses": extra}).train())
    plain, model = models
    for module in (*plain.modules(), *model.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # else a part of a batch has statistics of its own
    assert plain.state_dict().keys() == model.state_dict().keys()
    boxes = [sample(), sample(seed=1, classes=(1, 0))]
    for name, loss in plain(boxes).items():
        assert torch.equal(loss, model(boxes)[name])
    labels = [sample(supervision="presence", seed=i, num_positives=1) for i in range(3)]
    text = model.encode_text(labels)
    outputs = model.encode_images(model.preprocess_image(labels))
    best = model.similarity(outputs, text)[:, :, 0].amax(dim=1)  # "dog", of each image
    assert model(labels)["loss_presence"].item() == pytest.approx(best.mean().item(), abs=1e-6)

    model.zero_grad()
    model(labels)["loss_presence"].backward()
    whole = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    losses = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)(labels, 2)
    assert losses["loss_presence"].item() == pytest.approx(best.mean().item(), abs=1e-6)
    assert whole
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-4)


SCORES = get_args(ProposalScore)


def with_score(config, score):
    """The model with this proposal score, and the objectness it needs."""
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
        expected = LOSSES[samples[0]["supervision"]]
        if samples[0]["supervision"] == "detection" and score in ("class", "iou"):
            expected = expected | {"loss_objectness"}
        assert losses.keys() == expected
        assert all(map(math.isfinite, losses.values()))
    moved = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert {"head.region.weight", "text_tower.projection.weight"} <= moved
    assert ("head.objectness.weight" in moved) == (score in ("class", "iou"))
    # Detections are those of a fresh model with the same weights, without the proposal score.
    again = with_score(tiny_config, "text_batch")
    state = model.state_dict()
    again.load_state_dict({name: state[name] for name in again.state_dict()})
    found = []
    for each in (model.eval(), again.eval()):
        set_score_threshold(each, 0.0)
        each.set_vocabulary(NAMES)
        found.append(each([{"image": image()}])[0]["instances"])
    assert len(found[0]) > 0
    assert found[0].scores.isfinite().all()
    assert_same(*found)


def train_in_parallel(rank, world_size, config):
    """Losses and weights after three steps of a model for each proposal score."""
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


@pytest.mark.processes
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
def test_a_score_that_the_head_does_not_predict_is_refused(tiny_config, score, objectness):
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
        set_score_threshold(each, 0.0)
        each.set_vocabulary(NAMES)
        outputs.append(each([{"image": image()}])[0]["instances"])
    assert len(outputs[0]) > 0
    assert_same(*outputs)


def test_a_phrase_of_several_samples_is_encoded_once(tiny_model, monkeypatch):
    encoded = []
    forward = tiny_model.text_tower.forward
    monkeypatch.setattr(
        tiny_model.text_tower,
        "forward",
        lambda phrases: encoded.extend(phrases) or forward(phrases),
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
    """Names of parameters whose gradient after the batches is missing or zero."""
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
        # A branch with zero initial weights passes no gradient to the layers before it.
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def test_every_parameter_has_a_gradient(any_backbone):
    assert without_gradient(any_backbone, BATCHES["two images"], captions()) == set()


def test_parameters_without_gradient_by_supervision(any_backbone):
    assert without_gradient(any_backbone, BATCHES["two images"]) == set()
    grounding = [{**s, "supervision": "grounding"} for s in BATCHES["two images"]]
    assert without_gradient(any_backbone, grounding) == BOX_BRANCH
    # In a softmax over images, a bias common to all similarities cancels. A level of the pyramid
    # learns when a word has found its region there.
    untaught = without_gradient(any_backbone, captions())
    assert {n for n in untaught if not n.startswith("backbone.")} == BOX_BRANCH | {"align.bias"}
    assert not any("bottom_up" in name for name in untaught)


def test_boxes_of_outputs_are_clipped_to_their_images(tiny_model):
    images = tiny_model.preprocess_image([{"image": image(40, 70)}, {"image": image(64, 96)}])
    outputs = tiny_model.encode_images(images)
    outputs.deltas = 5 * torch.randn(outputs.deltas.shape)
    assert outputs.boxes.shape == outputs.deltas.shape
    for boxes, deltas, size in zip(outputs.boxes, outputs.deltas, images.image_sizes, strict=True):
        expected = Boxes(
            tiny_model.box2box_transform.apply_deltas(deltas, Boxes.cat(outputs.anchors).tensor)
        )
        expected.clip(size)
        torch.testing.assert_close(boxes, expected.tensor)
        assert boxes.amax(0).tolist() == [size[1], size[0], size[1], size[0]]


def test_one_anchor_and_one_box_by_hand(tiny_model):
    """At 64 x 96 px: levels of 8 x 12, 4 x 6, 2 x 3, 1 x 2 and 1 x 1 locations."""
    outputs = tiny_model.encode_images(tiny_model.preprocess_image([{"image": image(64, 96)}]))
    assert [len(level) for level in outputs.anchors] == [96, 24, 6, 2, 1]
    anchors = outputs.all_anchors.tensor
    # Stride 8, row 1, column 2: a square of 64 px around (20, 12).
    assert anchors[14].tolist() == [-12, -20, 52, 44]
    # Stride 16, row 3, column 5: 128 px around (88, 56). Stride 128: 1024 px around (64, 64).
    assert anchors[96 + 23].tolist() == [24, -8, 152, 120]
    assert anchors[-1].tolist() == [-448, -448, 576, 576]
    # Deltas are divided by 10, 10, 5, 5: the centre moves by 0.1 and -0.05 of 64 px, the width
    # doubles (e^0.6931 = 2), the height halves.
    outputs.deltas = torch.zeros_like(outputs.deltas)
    outputs.deltas[0, 14] = torch.tensor([1.0, -0.5, 5 * math.log(2), -5 * math.log(2)])
    box = outputs.boxes_at(0, torch.tensor([14]))[0]
    expected = [20 + 6.4 - 64, 12 - 3.2 - 16, 20 + 6.4 + 64, 12 - 3.2 + 16]
    torch.testing.assert_close(box, torch.tensor(expected))
    torch.testing.assert_close(outputs.boxes[0, 14], torch.tensor([0.0, 0.0, 90.4, 24.8]))


def test_pixels_are_normalised_in_the_order_red_green_blue(tiny_model):
    """ImageNet's mean and deviation: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of 255."""
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    [normalised] = tiny_model.preprocess_image([{"image": pixels}]).tensor
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    torch.testing.assert_close(normalised[:, 0, 0], expected)


def test_anchors_and_box_coder_come_from_the_config(tiny_config):
    tiny_config.anchor_generator.sizes = [[4 * s] for s in (8, 16, 32, 64, 128)]
    tiny_config.box2box_transform.weights = (1.0, 1.0, 1.0, 1.0)
    model = instantiate(tiny_config)
    outputs = model.encode_images(model.preprocess_image([{"image": image(64, 96)}]))
    assert outputs.all_anchors.tensor[14].tolist() == [4, -4, 36, 28]
    outputs.deltas = torch.ones_like(outputs.deltas)
    x1, _, x2, _ = outputs.boxes_at(0, torch.tensor([14]))[0].tolist()
    assert x2 - x1 == pytest.approx(32 * math.e)


def test_a_config_without_anchors_has_the_default_ones(tiny_config, tiny_model):
    """Configs written before these keys existed do not have them."""
    for key in ("anchor_generator", "box2box_transform", "head_in_features", "pixel_mean"):
        del tiny_config[key]
    model = instantiate(tiny_config)
    levels = [torch.zeros(1, 1, 4, 4)] * 5
    for ours, theirs in zip(
        model.anchor_generator(levels), tiny_model.anchor_generator(levels), strict=True
    ):
        assert torch.equal(ours.tensor, theirs.tensor)
    assert tuple(model.box2box_transform.weights) == tuple(tiny_model.box2box_transform.weights)
    assert model.head_in_features == tiny_model.head_in_features


def test_a_micro_batch_is_padded_as_the_whole_batch(tiny_model):
    samples = [{"image": image(40, 70)}, {"image": image(64, 96)}, {"image": image(100, 20)}]
    whole = tiny_model.preprocess_image(samples)
    for i in range(3):
        part = tiny_model.preprocess_image(samples[i : i + 1], samples)
        assert torch.equal(part.tensor[0], whole.tensor[i])
        assert part.image_sizes == whole.image_sizes[i : i + 1]


def test_it_implements_the_protocol_of_engine_and_predictor(tiny_model):
    assert isinstance(tiny_model, ExplainableModel)
    assert tiny_model.text_identity == "detclip2-nano"
    assert tiny_model.ignored_weights == ()
    tiny_model.text_tower = None
    assert tiny_model.text_identity is None
    assert tiny_model.ignored_weights == ("text_tower.",)


def test_attributes_that_detectron2_reads(tiny_model):
    assert META_ARCH_REGISTRY.get("DetCLIPv2") is DetCLIPv2
    assert tiny_model.input_format == "RGB"
    assert tiny_model.device.type == "cpu"
    assert not any("pixel" in name for name in tiny_model.state_dict())
