"""The tiny GLIP against the numbers of GLIP's published code, for each part of the model."""

import pytest
import torch
from detectron2.structures import ImageList
from torchvision.ops import batched_nms

from detclip2.modeling.heads.dyhead import split_levels
from detclip2.utils.glip_weights import convert_glip
from tests.helpers import glip_reference

LEVELS = ("p3", "p4", "p5", "p6", "p7")


@pytest.fixture(scope="module", params=["fused", "unfused"])
def reference(request):
    """The model with the formula's weights, and the expected numbers."""
    fused = request.param == "fused"
    model = glip_reference.model(fused).eval()
    state = convert_glip(glip_reference.published_state(fused)).state
    model.load_state_dict(state)
    return request.param, model, glip_reference.expected(request.param)


@pytest.fixture(scope="module")
def seen(reference):
    """Every tensor of a forward pass, under the name of its expected numbers."""
    _, model, _ = reference
    found, layer_outputs, hooks = {}, [], []

    def keep(module, inputs, output):
        layer_outputs.append(output)

    for layers in zip(model.head.fusions, model.head.text_layers, strict=True):
        hooks += [layer.register_forward_hook(keep) for layer in layers]
    hooks += [layer.register_forward_hook(keep) for layer in model.head.image_layers]
    with torch.no_grad():
        images = ImageList(glip_reference.images(), glip_reference.SIZES)
        for name, feature in model.backbone.bottom_up(images.tensor).items():
            found[f"swin.{name}"] = feature
        levels = model.pyramid(images)
        found.update({f"fpn.{name}": x for name, x in zip(LEVELS, levels, strict=True)})
        [caption] = model.prepare_vocabulary(glip_reference.NAMES).captions
        found["text.hidden"] = caption.states
        text = caption.repeated(2)
        outputs = model.fuse(levels, images.image_sizes, text)
        logits = model.token_logits(outputs, text)
    for hook in hooks:
        hook.remove()
    visual, tokens = levels, text.embeddings
    for i, output in enumerate(layer_outputs):
        if isinstance(output, tuple):  # of a fusion
            visual, tokens = split_levels(output[0], levels), output[1]
        elif isinstance(output, torch.Tensor):  # of a text layer
            tokens = output
        else:
            visual = output
        found[f"tower{i}.text"] = tokens
        names = [f"tower{i}.visual.{name}" for name in LEVELS]
        found.update(zip(names, visual, strict=True))
    sizes = [x.shape[-2] * x.shape[-1] for x in levels]
    parts = (("logits", logits), ("deltas", outputs.deltas), ("centerness", outputs.centerness))
    for name, of_all in parts:
        for level, tensor in zip(LEVELS, of_all.split(sizes, dim=1), strict=True):
            found[f"{name}.{level}"] = tensor.mT if name == "deltas" else tensor
    return found, outputs, logits, caption


def test_every_tensor(reference, seen):
    _, _, expected = reference
    found = seen[0]
    names = {name for name in expected if not name.startswith("detections")}
    assert names == set(found)
    for name in sorted(names):
        glip_reference.assert_matches(found[name], expected[name])


def test_losses(reference):
    variant, model, _ = reference
    model.train()
    samples = glip_reference.samples()
    text = model.encode_text(samples)
    images = ImageList(glip_reference.images(), glip_reference.SIZES)
    losses = model.losses(model.encode_images(images, text), text, samples)
    model.eval()
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        glip_reference.LOSSES[variant], rel=1e-4
    )


def test_ordinary_boxes_give_other_losses(reference):
    """So that the test above sees whether a box ends at or before its last pixel."""
    variant, model, _ = reference
    samples = glip_reference.samples()
    images = ImageList(glip_reference.images(), glip_reference.SIZES)
    assigner = model.box_losses.assigner
    assigner.inset = 0.0
    with torch.no_grad():
        text = model.encode_text(samples)
        losses = model.losses(model.encode_images(images, text), text, samples)
    assigner.inset = 0.5
    expected = glip_reference.LOSSES[variant]
    assert losses["loss_box"].item() != pytest.approx(expected["loss_box"], rel=1e-3)
    assert losses["loss_centerness"].item() != pytest.approx(expected["loss_centerness"], rel=1e-3)


@pytest.mark.parametrize("b", [0, 1])
def test_boxes_and_scores(reference, seen, b):
    """The published detections are among the candidates.

    Which candidates stay is tested with a slow loop below instead: on a CPU, the published code
    applies the indices of one label's survivors to the boxes of all labels (boxlist_ml_nms).
    """
    _, model, expected = reference
    _, outputs, logits, caption = seen
    found = model.postprocess.candidates(outputs, b, logits[b], caption)
    height, width = glip_reference.SIZES[b]
    last = torch.tensor([width, height, width, height]) - 1
    boxes = (found.boxes - torch.tensor([0, 0, 1, 1])).clamp(min=0).minimum(last)  # last pixels
    same_box = torch.cdist(expected[f"detections{b}.boxes"], boxes, p=torch.inf)
    labels, scores = expected[f"detections{b}.labels"] - 1, expected[f"detections{b}.scores"]
    same = (same_box < 5e-3) & (labels[:, None] == found.labels)
    same &= (scores[:, None] - found.scores).abs() < 1e-4 * scores[:, None]
    assert len(labels) >= 100
    assert same.any(dim=1).all()


@pytest.mark.parametrize("b", [0, 1])
def test_detections_by_the_published_rules(reference, seen, b):
    """Of each level the 1000 best names above 0.05; suppression for each name; the best 100."""
    _, model, _ = reference
    _, outputs, logits, _ = seen
    tokens = ([1], [3, 4], [6, 7, 8], [10, 11])
    of_name = [logits[b][:, own].sigmoid().mean(dim=1) for own in tokens]
    probability = torch.stack(of_name, dim=1)
    anchor, name = (probability > 0.05).nonzero(as_tuple=True)
    scores = (probability[anchor, name] * outputs.centerness[b][anchor].sigmoid()).sqrt()
    boxes = outputs.boxes[b][anchor]
    keep = batched_nms(boxes, scores, name, 0.6)
    keep = keep[((boxes[keep, 2:] - boxes[keep, :2]) > 0).all(dim=1)][:100]
    found = model.postprocess(
        [model.postprocess.candidates(outputs, b, logits[b], seen[3])], glip_reference.SIZES[b]
    )
    torch.testing.assert_close(found.scores, scores[keep])
    torch.testing.assert_close(found.pred_boxes.tensor, boxes[keep])
    assert found.pred_classes.tolist() == name[keep].tolist()
    assert len(found) == 100
