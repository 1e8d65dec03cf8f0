"""The whole model at a small size: every kind of batch, every odd one, and what must not matter."""

import copy
import math
from typing import get_args

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import SimpleTrainer
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from processes import run_processes
from torch.nn.parallel import DistributedDataParallel

from detclip2.errors import UserError
from detclip2.modeling import detclip
from detclip2.modeling.detclip import DetCLIPv2
from detclip2.modeling.proposals import ProposalScore

NAMES = ["red apple", "fire engine", "пёс"]
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


def image(height=64, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 255
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)


def sample(
    boxes=((10, 8, 50, 40), (40, 20, 90, 60)),
    classes=(0, 1),
    phrases=("dog", "cat", "tree"),
    source="detection",
    seed=0,
    **more,
):
    picture = image(seed=seed)
    result = {"image": picture, "source": source, "phrases": list(phrases), **more}
    result.setdefault("num_positives", max(classes, default=-1) + 1)
    if source != "caption":
        instances = Instances(tuple(picture.shape[-2:]))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        result["instances"] = instances
    return result


def without_boxes(**more):
    return sample(boxes=(), classes=(), **more)


def captions():
    return [
        sample(source="caption", phrases=["a dog by a tree", "dog"], num_positives=2, seed=1),
        sample(source="caption", phrases=["two cats", "cats"], num_positives=2, seed=2),
    ]


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


@pytest.fixture
def detector(tiny_model):
    """In evaluation, with scores far enough apart that rounding does not change their order."""
    with torch.no_grad():
        tiny_model.align.log_scale.fill_(math.log(30))
        tiny_model.head.centerness.weight.mul_(100)
        tiny_model.head.box.weight.mul_(30)
    tiny_model.postprocess.score_threshold = 0.1
    tiny_model.set_vocabulary(NAMES)
    return tiny_model.eval()


def detect(model, samples):
    return [output["instances"] for output in model(samples)]


def assert_same(ours, theirs):
    assert ours.image_size == theirs.image_size
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3, rtol=1e-4
    )


SIZES = [(64, 96), (64, 96), (96, 64), (60, 70), (33, 33), (64, 96), (1, 1), (1, 200)]


def test_batched_equals_one_by_one(detector):
    """Images of equal size, of sizes with equal padding, and of others."""
    samples = [{"image": image(*size, seed=i)} for i, size in enumerate(SIZES)]
    together = detect(detector, samples)
    assert [found.image_size for found in together] == SIZES
    for one, found in zip(samples, together, strict=True):
        assert_same(found, detect(detector, [one])[0])
    assert sum(map(len, together)) > 50


@pytest.mark.parametrize(("limit", "batches"), [(2 * 64 * 96, [2, 2, 1]), (1, [1] * 5)])
def test_a_processor_takes_few_pixels_at_once(detector, monkeypatch, limit, batches):
    samples = [{"image": image(64, 96, seed=i)} for i in range(5)]
    together = detect(detector, samples)
    seen = []
    detector.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setitem(detclip.PIXELS_AT_ONCE, "cpu", limit)
    for one, found in zip(together, detect(detector, samples), strict=True):
        assert_same(found, one)
    assert seen == batches


def test_padding_alone_would_change_what_is_found(detector):
    """The reason why only images of one padded size share a batch."""
    small, large = {"image": image(64, 64)}, {"image": image(64, 128)}
    with torch.no_grad():
        alone, _ = detector.predict(detector.preprocess_images([small]))
        padded, _ = detector.predict(detector.preprocess_images([small, large]))
    finest = padded.regions[0, : 8 * 16].view(8, 16, -1)[:, :8]
    assert (finest - alone.regions[0, :64].view(8, 8, -1)).abs().max() > 0.01


def test_boxes_are_in_the_original_size(detector):
    [found] = detect(detector, [{"image": image()}])
    [large] = detect(detector, [{"image": image(), "height": 128, "width": 48}])
    assert large.image_size == (128, 48)
    scale = torch.tensor([0.5, 2.0, 0.5, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, found.pred_boxes.tensor * scale)


def test_whole_numbers_and_fractions_are_one_image(detector):
    [a] = detect(detector, [{"image": image()}])
    [b] = detect(detector, [{"image": image().float()}])
    assert_same(a, b)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_image_finds_nothing_and_leaves_others_alone(detector, value):
    broken = image().float()
    broken[0, 10, 10] = value
    found, other = detect(detector, [{"image": broken}, {"image": image(seed=1)}])
    assert found.pred_boxes.tensor.isfinite().all()
    assert found.scores.isfinite().all()
    assert_same(other, detect(detector, [{"image": image(seed=1)}])[0])


@pytest.mark.parametrize("samples", [[sample()], captions()], ids=["boxes", "captions"])
def test_training_stops_at_a_broken_image(tiny_model, samples):
    broken = samples[0]["image"].float()
    broken[0, 10, 10] = math.nan
    samples = [{**samples[0], "image": broken}, *samples[1:]]
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.1)
    trainer = SimpleTrainer(tiny_model, [samples], optimizer)
    with pytest.raises(FloatingPointError):
        trainer.train(0, 1)


@pytest.mark.parametrize("number", [1, 1000])
def test_names_by_embedding_equal_names_by_text(detector, number):
    names = [f"name {i}" for i in range(number)]
    detector.set_vocabulary(names)
    [by_text] = detect(detector, [{"image": image()}])
    embeddings = detector.encode_phrases(names)
    assert embeddings.shape == (number, detector.embed_dim)
    assert not embeddings.requires_grad
    detector.set_vocabulary(embeddings)
    [by_embedding] = detect(detector, [{"image": image()}])
    assert_same(by_text, by_embedding)
    detector.set_vocabulary(["something else"])
    [own] = detect(detector, [{"image": image(), "vocabulary": embeddings}])
    assert_same(by_text, own)
    assert len(by_text) > 0


def test_each_image_may_have_its_own_vocabulary(detector):
    samples = [
        {"image": image(seed=i), "vocabulary": detector.encode_phrases(NAMES[i:])} for i in (0, 1)
    ]
    first, second = detect(detector, samples)
    assert set(first.pred_classes.tolist()) == {0, 1, 2}
    assert set(second.pred_classes.tolist()) == {0, 1}


@pytest.mark.parametrize("own", [False, True])
def test_names_of_one_label_find_what_the_best_of_them_finds(detector, own):
    names = detector.encode_phrases([*NAMES, "яблоко"])
    label_of_row = torch.tensor([0, 1, 1, 1])
    if own:
        samples = [{"image": image(), "vocabulary": names, "label_of_row": label_of_row}]
    else:
        detector.set_vocabulary(names, label_of_row)
        samples = [{"image": image()}]
    [found] = detect(detector, samples)

    class BestInALoop:
        def blocks(self, phrases, size):
            return [(0, lambda regions: self.best(detector.align(regions, phrases)))]

        def best(self, similarity):
            groups = [[0], [1, 2, 3]]
            return torch.stack([similarity[:, group].max(dim=1).values for group in groups], dim=1)

    postprocess = detector.postprocess
    detector.postprocess = lambda *args: postprocess(*args[:5], BestInALoop(), *args[6:])
    [expected] = detect(detector, [{"image": image(), "vocabulary": names}])
    assert set(expected.pred_classes.tolist()) == {0, 1}
    assert_same(found, expected)


def test_another_vocabulary_drops_the_labels_of_the_last_one(detector):
    names = detector.encode_phrases(NAMES)
    [expected] = detect(detector, [{"image": image(), "vocabulary": names}])
    detector.set_vocabulary(names, torch.tensor([0, 0, 0]))
    [own] = detect(detector, [{"image": image(), "vocabulary": names}])
    assert_same(own, expected)
    detector.set_vocabulary(names)
    assert_same(detect(detector, [{"image": image()}])[0], expected)


def test_an_image_may_bring_names(detector):
    embeddings = detector.encode_phrases(NAMES[::-1])
    [expected] = detect(detector, [{"image": image(), "vocabulary": embeddings}])
    [found] = detect(detector, [{"image": image(), "vocabulary": NAMES[::-1]}])
    assert len(found) > 0
    assert_same(found, expected)


def test_no_names(detector):
    detector.set_vocabulary(torch.zeros(0, detector.embed_dim))
    assert len(detect(detector, [{"image": image()}])[0]) == 0
    detector.set_vocabulary([])
    with pytest.raises(UserError, match="no vocabulary: call set_vocabulary"):
        detect(detector, [{"image": image()}])


def test_a_vocabulary_of_another_width_is_refused(detector):
    for shape in ((3, 5), (16,)):
        with pytest.raises(UserError, match=r"expected \(C, 16\)"):
            detector.set_vocabulary(torch.zeros(shape))


def test_names_are_encoded_again_when_weights_have_changed(detector):
    before = detector.vocabulary
    assert detector.vocabulary is before, "kept while nothing changes"
    state = {
        name: t + 0.1 * torch.randn_like(t) if "text_tower" in name else t
        for name, t in detector.state_dict().items()
    }
    detector.load_state_dict(state)
    loaded = detector.vocabulary
    assert not torch.equal(loaded, before)
    torch.testing.assert_close(loaded, detector.encode_phrases(NAMES))
    detector.train()
    with torch.no_grad():
        detector.text_tower.projection.weight.mul_(2)
    torch.testing.assert_close(detector.eval().vocabulary, 2 * loaded)


def test_ready_embeddings_outlive_training_and_follow_the_model(detector):
    embeddings = detector.encode_phrases(NAMES)
    detector.set_vocabulary(embeddings)
    detector.train().eval()
    detector.load_state_dict(detector.state_dict())
    assert torch.equal(detector.vocabulary, embeddings)
    assert detector.to("meta").vocabulary.device.type == "meta"


def test_encoding_leaves_the_mode_as_it_is(tiny_model):
    tiny_model.text_tower.model.embeddings.register_forward_hook(
        lambda *args: pytest.fail("training") if tiny_model.text_tower.training else None
    )
    tiny_model.encode_phrases(NAMES)
    assert all(module.training for module in tiny_model.modules())
    tiny_model.eval().encode_phrases(NAMES)
    assert not any(module.training for module in tiny_model.modules())


def test_many_names_are_encoded_some_at_a_time(detector, monkeypatch):
    names = [*NAMES, "a much longer name than the others", "x"]
    expected = detector.encode_phrases(names)
    calls = []
    detector.text_tower.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    monkeypatch.setattr("detclip2.prompt_ensemble.BATCH_SIZE", 2)
    torch.testing.assert_close(detector.encode_phrases(names), expected)
    assert calls == [2, 2, 1]
    assert detector.encode_phrases([]).shape == (0, detector.embed_dim)


def test_a_model_without_text_tower(detector):
    embeddings = detector.encode_phrases(NAMES)
    [expected] = detect(detector, [{"image": image()}])
    model = copy.copy(detector)
    model._modules = {**detector._modules, "text_tower": None}
    model.set_vocabulary(NAMES)
    with pytest.raises(UserError, match="no text tower"):
        detect(model, [{"image": image()}])
    model.set_vocabulary(embeddings)
    assert_same(detect(model, [{"image": image()}])[0], expected)


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
