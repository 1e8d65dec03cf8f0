import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch.nn import functional as F

from detclip2.modeling.heads.atss_head import ATSSHead, DeformableLayer, join_levels
from detclip2.utils.errors import UserError

C, D = 8, 6
SIZES = [(4, 6), (2, 3), (1, 2)]
K = sum(h * w for h, w in SIZES)


def head(**options):
    torch.manual_seed(0)
    options = {"num_levels": 3, "num_convs": 2, "num_groups": 4, **options}
    return ATSSHead(C, D, **options)


def predict(model):
    """The outputs of the head, by name."""
    return model(levels())


def levels(batch_size=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch_size, C, h, w, generator=generator) for h, w in SIZES]


@pytest.mark.parametrize("options", [{}, {"deformable": False}, {"num_convs": 1}, {"num_convs": 4}])
def test_shapes(options):
    shapes = {name: t.shape for name, t in predict(head(**options)).items()}
    assert shapes == {"regions": (2, K, D), "deltas": (2, K, 4), "centerness": (2, K)}


@pytest.mark.parametrize("kind", ["class", "iou"])
def test_objectness_does_not_change_other_outputs(kind):
    plain, model = head(), head(objectness=kind)
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {"objectness.weight", "objectness.bias"}
    assert all(torch.equal(model.state_dict()[name], t) for name, t in plain.state_dict().items())
    others, found = predict(plain), predict(model)
    objectness = found.pop("objectness")
    assert objectness.shape == (2, K)
    for name, expected in others.items():
        assert torch.equal(found[name], expected), name
    # at the start, the prior of the focal loss, or 0.5
    start = {"class": 0.01, "iou": 0.5}[kind]
    torch.testing.assert_close(objectness.sigmoid().median().item(), start, atol=start / 5, rtol=0)


@pytest.mark.parametrize(("kind", "tower"), [("class", "class_tower"), ("iou", "box_tower")])
def test_objectness_trains_the_tower_of_its_kind(kind, tower):
    model = head(objectness=kind, deformable=False)
    model(levels())["objectness"].square().sum().backward()
    taught = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert taught == {tower, "objectness"}


def test_an_unknown_objectness_is_named():
    with pytest.raises(UserError, match=r"head\.objectness is 'best'; expected 'class', 'iou' or"):
        head(objectness="best")


def test_predictions_are_in_the_order_of_the_anchors():
    """Each location outputs its own position, where its anchor is."""
    strides = (8, 16, 32)
    anchors = DefaultAnchorGenerator(
        sizes=[[8 * s] for s in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
    )
    maps = [
        torch.stack(
            torch.meshgrid(
                (torch.arange(w) + 0.5) * stride, (torch.arange(h) + 0.5) * stride, indexing="xy"
            )
        )[None]
        for stride, (h, w) in zip(strides, SIZES, strict=True)
    ]
    centers = torch.cat([boxes.get_centers() for boxes in anchors(maps)])
    torch.testing.assert_close(join_levels(maps)[0], centers)


def test_levels_and_images_are_independent_of_each_other():
    model, x = head(objectness="class"), levels()
    whole = model(x)
    for b in range(2):
        single = model([level[b : b + 1] for level in x])
        for ours, theirs in zip(whole.values(), single.values(), strict=True):
            torch.testing.assert_close(ours[b], theirs[0])
    x[1] = x[1] + 1
    for before, after in zip(whole.values(), model(x).values(), strict=True):
        changed = (before != after).flatten(2).any(-1) if before.dim() == 3 else before != after
        assert changed.nonzero()[:, 1].unique().tolist() == list(range(24, 30))


def test_each_level_has_a_scale_of_deltas():
    model, x = head(), levels()
    before = model(x)
    with torch.no_grad():
        model.scales[1] = 3
    after = model(x)
    factor = torch.ones(K, 1)
    factor[24:30] = 3
    torch.testing.assert_close(after["deltas"], before["deltas"] * factor)
    torch.testing.assert_close(after["regions"], before["regions"])
    torch.testing.assert_close(after["centerness"], before["centerness"])


def test_deformable_layer_starts_as_a_convolution():
    torch.manual_seed(0)
    layer = DeformableLayer(C, num_groups=4)
    x, box_features = levels()[0], levels()[0].flip(0)
    predicted = layer.offsets_and_mask(box_features)
    plain = F.conv2d(x, layer.conv.weight, padding=1) / 2  # all masks are sigmoid(0)
    torch.testing.assert_close(layer(x, predicted), layer.norm(plain).relu())


@pytest.mark.parametrize("deformable", [True, False])
def test_inference_joins_the_narrow_convolutions(monkeypatch, deformable):
    """One a level instead of three, with the same result."""
    model = head(deformable=deformable).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is not None:
            torch.nn.init.normal_(layer.weight, std=0.1)
            torch.nn.init.normal_(layer.bias)
    expected = predict(model)
    calls = []
    conv2d = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, w, *a, **k: calls.append(len(w)) or conv2d(x, w, *a, **k)
    )
    with torch.no_grad():
        found = predict(model)
    outputs = 4 + 1 + 27 * deformable
    assert calls.count(outputs) == len(SIZES)
    assert not {1, 4, 27} & set(calls)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("deformable", [True, False])
def test_regions_train_the_box_tower_through_the_deformable_layer(deformable):
    model = head(deformable=deformable)
    if deformable:  # with the initial zero weights, there is no gradient
        torch.nn.init.normal_(model.deformable.offsets_and_mask.weight, std=0.1)
    model(levels())["regions"].square().sum().backward()
    gradients = [p.grad is not None and p.grad.any() for p in model.box_tower.parameters()]
    assert all(gradients) if deformable else not any(gradients)


def test_autocast_keeps_offsets_in_single_precision():
    model, x = head(objectness="iou"), levels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(x)
    assert half["regions"].dtype == torch.bfloat16
    for ours, theirs in zip(half.values(), model(x).values(), strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0.1)
