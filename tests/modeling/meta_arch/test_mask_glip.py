"""GLIPv2 with a mask head: masks of detections, second stage, and shapes to overfit."""

import contextlib
import copy

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, Boxes

from detclip2.engine.learning import freeze_modes, learn_only
from detclip2.engine.micro_batch import GradientsInParts
from detclip2.modeling.heads.mask_head import MaskHead
from detclip2.modeling.losses.masks import MaskCriterion
from tests.helpers.degenerate_inputs import DegenerateInputs
from tests.helpers.detclip_samples import NAMES, assert_same, detect, image, sample
from tests.helpers.tiny_glip import TEXT, WIDTH, tiny_glip, tiny_glipv2, without_randomness

BOXES = {"loss_align", "loss_box", "loss_centerness"}
OF_SUPERVISION = {"detection": BOXES, "grounding": BOXES}


def mask_glip(**arguments):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        parts = {
            "mask_head": MaskHead(WIDTH, text_width=TEXT, resolution=7),
            "mask_losses": MaskCriterion(),
            "masked_language": None,
            "region_word_contrast": None,
        }
    return tiny_glipv2(**{**parts, **arguments})


def masked(one):
    """The sample with a mask for each of its boxes: its lower half."""
    instances = one["instances"]
    masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, instances.gt_boxes.tensor.round().int(), strict=True):
        mask[(y0 + y1) // 2 : y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    return one


@pytest.fixture(scope="module")
def built():
    return mask_glip()


@pytest.fixture
def model(built):
    return copy.deepcopy(built)


@pytest.fixture
def detector(model):
    model.set_vocabulary(NAMES)
    return model.eval()


class TestDegenerateInputs(DegenerateInputs):
    losses = OF_SUPERVISION

    @pytest.fixture
    def model(self, model):
        return model

    @pytest.fixture
    def detector(self, detector):
        return detector


def test_detections_are_those_of_glip_and_have_masks(detector):
    """The mask of a detection is that of its box and its name's tokens."""
    pixels = {"image": image(), "height": 50, "width": 70}
    [found] = detect(detector, [pixels])
    assert len(found) > 5
    assert found.pred_masks.shape == (len(found), 50, 70)
    assert found.pred_masks.dtype == torch.bool
    assert not found.has("pred_words")
    plain = tiny_glip()
    kept = {k: v for k, v in detector.state_dict().items() if not k.startswith("mask_head")}
    plain.text_tower = detector.text_tower
    plain.load_state_dict(kept)
    plain.eval().set_vocabulary(NAMES)
    assert_same(detect(plain, [pixels])[0], found)
    with torch.no_grad():
        images = detector.preprocess_image([pixels])
        [caption] = detector.text_bank.state(detector.prepare_rows).captions
        text = caption.repeated(1)
        outputs = detector.encode_images(images, text)
        words = detector.mask_head.words(outputs.tokens[0], caption.weights)
        places = {label: i for i, label in enumerate(caption.labels.tolist())}
        boxes = found.pred_boxes.clone()
        boxes.scale(96 / 70, 64 / 50)
        rows = words[[places[c] for c in found.pred_classes.tolist()]]
        logits = detector.mask_head(outputs.images, outputs.pyramid, [boxes], rows)
    expected = paste_masks_in_image(logits.sigmoid(), found.pred_boxes, (50, 70))
    assert (expected != found.pred_masks).float().mean() < 1e-3
    assert 0.0 < found.pred_masks.float().mean() < 0.9


def test_names_in_several_captions_have_their_own_words(detector):
    """With one name a caption, a name's detections are those of a vocabulary of this name alone."""
    detector.names_per_caption = 1
    detector.set_vocabulary(["dog", "red apple"])
    [both] = detect(detector, [{"image": image()}])
    for label, name in enumerate(["dog", "red apple"]):
        detector.set_vocabulary([name])
        [alone] = detect(detector, [{"image": image()}])
        own = both[both.pred_classes == label]
        assert len(own)
        assert torch.equal(own.pred_masks, alone.pred_masks[: len(own)])


def test_no_detections(detector):
    detector.postprocess.min_probability = 1.0
    [found] = detect(detector, [{"image": image()}])
    assert found.pred_masks.shape == (0, 64, 96)
    detector.set_vocabulary(["\u200b"])  # without a token, so without a caption
    [found] = detect(detector, [{"image": image()}])
    assert found.pred_masks.shape == (0, 64, 96)


def test_masks_may_be_switched_off(detector):
    [found] = detect(detector, [{"image": image()}])
    detector.predicts_masks = False
    detector.mask_head.forward = None
    [boxes] = detect(detector, [{"image": image()}])
    assert not boxes.has("pred_masks")
    assert_same(boxes, found)
    assert mask_glip(mask_head=None, mask_losses=None).ignored_weights == ("mask_head.",)
    assert detector.ignored_weights == ()


def test_losses(model):
    with_masks = [masked(sample()), masked(sample(seed=1))]
    losses = model(with_masks)
    assert losses.keys() == BOXES | {"loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model([sample()]).keys() == BOXES


def test_gradients_in_parts_equal_those_of_the_batch(model):
    samples = [masked(sample(seed=seed, boxes=b, classes=c)) for seed, (b, c) in enumerate(SCENES)]
    model = without_randomness(model)
    losses = model(samples)
    sum(losses.values()).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    parts = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)(samples, 1)
    for name, loss in losses.items():
        torch.testing.assert_close(parts[name], loss.detach(), atol=1e-5, rtol=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-4, rtol=1e-3, msg=name)


SCENES = [
    (((10, 8, 50, 40), (40, 20, 90, 60)), (0, 1)),
    ((), ()),
    (((5, 5, 60, 50),), (0,)),
]


def mask_head_alone():
    """The second stage: nothing but the mask head learns."""
    model = mask_glip()
    learn_only(model, ["mask_head."])
    freeze_modes(model)
    return model


def test_the_second_stage_trains_the_mask_head_alone():
    model = mask_head_alone()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"mask_head.{name}" for name, _ in model.mask_head.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = model.train()([masked(sample())])
    assert losses.keys() == {"loss_mask"}
    losses["loss_mask"].backward()
    optimizer.step()
    training = {name.split(".")[0] for name, module in model.named_modules() if module.training}
    assert "mask_head" in training
    assert not training & {"backbone", "text_tower", "head", "token_head"}
    for name, tensor in model.state_dict().items():  # with the statistics of norms
        assert torch.equal(tensor, before[name]) != name.startswith("mask_head"), name
    parts = GradientsInParts(model, contextlib.nullcontext, lambda loss: loss)
    parts([masked(sample()), masked(sample(seed=1))], 1)


def shapes():
    """A square, a disc and a triangle in boxes of one size, on three images, by name."""
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(96) - 47.5, indexing="ij")
    forms = {
        "square": (x.abs() < 22) & (y.abs() < 22),
        "disc": x**2 + y**2 < 22**2,
        "triangle": (y < 22) & (y > 2 * x.abs() - 22),
    }
    samples = []
    for number, (name, form) in enumerate(forms.items()):
        one = sample(boxes=[(26, 10, 70, 54)], classes=(0,), phrases=[name], seed=number)
        one["image"] = torch.where(form, 220, 40).expand(3, -1, -1).to(torch.uint8)
        one["instances"].gt_masks = BitMasks(form[None])
        samples.append(one)
    return samples


def test_the_masks_of_shapes_are_learnt():
    """From random weights, whose pyramid shows enough of three shapes: IoU over 0.9."""
    model = mask_head_alone()
    samples = shapes()
    text = model.encode_text(samples)
    outputs = model.encode_images(model.preprocess_image(samples), text)
    torch.testing.assert_close(
        model.image_losses(outputs, text, samples)["loss_mask"], model(samples)["loss_mask"]
    )
    optimizer = torch.optim.Adam(model.mask_head.parameters(), lr=6e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model.image_losses(outputs, text, samples)["loss_mask"].backward()
        optimizer.step()
    with torch.no_grad():
        boxes = [one["instances"].gt_boxes for one in samples]
        weights = [own.float().T / own.sum() for own in text.tokens_of]
        words = [model.mask_head.words(t, w) for t, w in zip(outputs.tokens, weights, strict=True)]
        logits = model.mask_head(outputs.images, outputs.pyramid, boxes, torch.cat(words))
    found = paste_masks_in_image(logits.sigmoid(), Boxes.cat(boxes), (64, 96))
    true = torch.cat([one["instances"].gt_masks.tensor for one in samples])
    iou = (found & true).flatten(1).sum(1) / (found | true).flatten(1).sum(1)
    assert iou.min() > 0.9, iou
    assert (true[0] & ~true[2]).sum() > 500  # the shapes differ
