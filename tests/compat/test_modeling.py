"""Registries, pyramid, anchors, box deltas, postprocessing, pooling."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_model,
    detector_postprocess,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align


class Pooling(Backbone):
    """Three strided copies of the image, with 3 channels each."""

    def __init__(self, cfg=None, input_shape=None):
        super().__init__()
        self.input_shape = input_shape
        self._out_features = ["c3", "c4", "c5"]
        self._out_feature_channels = dict.fromkeys(self._out_features, 3)
        self._out_feature_strides = {"c3": 8, "c4": 16, "c5": 32}

    def forward(self, x):
        return {f"c{n}": functional.avg_pool2d(x, 2**n) for n in (3, 4, 5)}


def pyramid(source="p5", **options):
    torch.manual_seed(0)
    top = LastLevelP6P7(3 if source == "c5" else 8, 8, in_feature=source)
    return FPN(Pooling(), ["c3", "c4", "c5"], 8, top_block=top, **options)


# Backbone and registries


def test_backbone():
    backbone = Pooling()
    assert backbone.output_shape() == {
        "c3": ShapeSpec(channels=3, stride=8),
        "c4": ShapeSpec(channels=3, stride=16),
        "c5": ShapeSpec(channels=3, stride=32),
    }
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}
    with pytest.raises(TypeError):
        Backbone()


def test_build_by_name():
    BACKBONE_REGISTRY.register(Pooling)
    built = []

    @META_ARCH_REGISTRY.register()
    class ContractModel(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.backbone = build_backbone(cfg)
            built.append(self)

    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ContractModel"
    cfg.MODEL.BACKBONE.NAME = "Pooling"
    model = build_model(cfg)
    assert model is built[0]
    assert model.backbone.input_shape == ShapeSpec(channels=3)
    assert build_backbone(cfg, ShapeSpec(channels=7)).input_shape.channels == 7
    cfg.MODEL.META_ARCHITECTURE = "NoSuchModel"
    with pytest.raises(KeyError, match="NoSuchModel"):
        build_model(cfg)


# FPN


def test_pyramid_names_of_parameters():
    convs = [f"fpn_{kind}{n}" for n in (3, 4, 5) for kind in ("lateral", "output")]
    names = [f"{conv}.{part}" for conv in convs for part in ("weight", "bias")]
    names += [f"top_block.p{n}.{part}" for n in (6, 7) for part in ("weight", "bias")]
    assert [name for name, _ in pyramid().named_parameters()] == names


def test_pyramid_with_norm():
    model = FPN(Pooling(), ["c4", "c5"], 32, norm="GN")
    assert "fpn_lateral4.norm.weight" in model.state_dict()
    assert "fpn_lateral4.bias" not in model.state_dict()
    assert isinstance(model.fpn_output5.norm, nn.GroupNorm)
    assert model.fpn_output5.norm.num_groups == 32
    custom = FPN(Pooling(), ["c4", "c5"], 8, norm=lambda channels: nn.GroupNorm(2, channels))
    assert custom.fpn_lateral4.norm.num_groups == 2
    with pytest.raises(KeyError):
        FPN(Pooling(), ["c5"], 8, norm="NoSuchNorm")


@pytest.mark.parametrize("source", ["p5", "c5"])
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_pyramid_equals_its_definition(source, fuse_type):
    model = pyramid(source, fuse_type=fuse_type)
    image = torch.randn(2, 3, 64, 96)
    weights = model.state_dict()

    def conv(x, name, **options):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    features, fused, expected = Pooling()(image), None, {}
    for n in (5, 4, 3):
        lateral = conv(features[f"c{n}"], f"fpn_lateral{n}")
        if fused is not None:
            upsampled = fused.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            lateral = (lateral + upsampled) / (2 if fuse_type == "avg" else 1)
        fused = lateral
        expected[f"p{n}"] = conv(fused, f"fpn_output{n}", padding=1)
    top = features["c5"] if source == "c5" else expected["p5"]
    expected["p6"] = conv(top, "top_block.p6", stride=2, padding=1)
    expected["p7"] = conv(expected["p6"].relu(), "top_block.p7", stride=2, padding=1)

    outputs = model(image)
    assert list(outputs) == ["p3", "p4", "p5", "p6", "p7"]
    for name, shape in model.output_shape().items():
        torch.testing.assert_close(outputs[name], expected[name])
        assert shape.channels == outputs[name].shape[1] == 8
        assert shape.stride == 2 ** int(name[1])


def test_pyramid_initial_weights():
    model = FPN(Pooling(), ["c5"], 64)
    bound = math.sqrt(3 / (64 * 9))  # uniform, with variance 1 / fan-in
    assert 0.95 * bound < model.fpn_output5.weight.abs().max() <= bound
    assert model.fpn_output5.bias.abs().max() == 0


def test_pyramid_size_divisibility():
    assert pyramid().size_divisibility == 32
    assert pyramid(square_pad=640).padding_constraints == {"square_size": 640}


def test_pyramid_refuses():
    with pytest.raises(AssertionError):
        FPN(nn.Identity(), ["c5"], 8)
    with pytest.raises(AssertionError):
        FPN(Pooling(), [], 8)
    with pytest.raises(AssertionError, match="log2 contiguous"):
        FPN(Pooling(), ["c3", "c5"], 8)
    with pytest.raises(AssertionError):
        FPN(Pooling(), ["c5"], 8, fuse_type="max")


# Anchors


def test_anchors_are_placed_one_by_one():
    sizes, ratios, strides, offset = [[16.0], [40, 50]], [[0.5, 2.0]], [8, 16], 0.25
    generator = DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=ratios, strides=strides, offset=offset
    )
    maps = [torch.zeros(1, 5, 3, 2), torch.zeros(1, 5, 2, 1)]
    for boxes, feature, stride, level_sizes in zip(
        generator(maps), maps, strides, sizes, strict=True
    ):
        expected = []
        for row in range(feature.shape[2]):
            for column in range(feature.shape[3]):
                x, y = (column + offset) * stride, (row + offset) * stride
                for size in level_sizes:
                    for ratio in ratios[0]:
                        w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                        expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        assert isinstance(boxes, Boxes)
        torch.testing.assert_close(boxes.tensor, torch.tensor(expected))
    assert generator.num_anchors == generator.num_cell_anchors == [2, 4]
    assert generator.box_dim == 4


def test_anchors_are_not_saved_and_move():
    generator = DefaultAnchorGenerator(sizes=[16], aspect_ratios=[1.0], strides=[8])
    assert generator.state_dict() == {}
    assert len(list(generator.buffers())) == 1


def test_anchors_from_config():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    generator = DefaultAnchorGenerator(cfg, [ShapeSpec(stride=4)])
    anchors = generator([torch.zeros(1, 1, 1, 2)])[0].tensor
    assert anchors.tolist() == [[-16, -16, 16, 16], [-12, -16, 20, 16]]


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": []}, {"sizes": 16}, {"sizes": [[1], [2], [3]]}, {"offset": 1.0}, {"offset": -0.1}],
)
def test_anchors_refuse(wrong):
    options = {"sizes": [[16]], "aspect_ratios": [[1.0]], "strides": [8, 16], **wrong}
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(**options)


# Box2BoxTransform


def random_boxes(n, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 49], dim=1)


def test_deltas_one_by_one():
    weights = (10.0, 8.0, 5.0, 4.0)
    sources, targets = random_boxes(5, 0), random_boxes(5, 1)
    deltas = Box2BoxTransform(weights).get_deltas(sources, targets)
    for (x0, y0, x1, y1), (u0, v0, u1, v1), delta in zip(
        sources.tolist(), targets.tolist(), deltas.tolist(), strict=True
    ):
        assert delta == pytest.approx(
            [
                10 * ((u0 + u1) - (x0 + x1)) / 2 / (x1 - x0),
                8 * ((v0 + v1) - (y0 + y1)) / 2 / (y1 - y0),
                5 * math.log((u1 - u0) / (x1 - x0)),
                4 * math.log((v1 - v0) / (y1 - y0)),
            ],
            rel=1e-4,
            abs=1e-5,
        )


def test_deltas_and_back():
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    sources, targets = random_boxes(20, 2), random_boxes(20, 3)
    deltas = transform.get_deltas(sources, targets)
    torch.testing.assert_close(transform.apply_deltas(deltas, sources), targets)
    twice = transform.apply_deltas(torch.cat([deltas, deltas * 0], dim=1), sources)
    torch.testing.assert_close(twice, torch.cat([targets, sources], dim=1))


def test_deltas_are_clamped():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0), scale_clamp=math.log(4))
    moved = transform.apply_deltas(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[0.0, 0, 2, 4]]))
    torch.testing.assert_close(moved, torch.tensor([[-3.0, -6, 5, 10]]))
    default = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    assert default.scale_clamp == pytest.approx(math.log(1000 / 16))


def test_deltas_in_half_precision_are_applied_in_float32():
    deltas = torch.zeros(1, 4).half()
    boxes = torch.tensor([[0.0, 0, 1001, 2003]])
    moved = Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(deltas, boxes)
    assert moved.dtype == torch.float32
    assert torch.equal(moved, boxes)


def test_deltas_of_boxes_without_width():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    with pytest.raises((AssertionError, RuntimeError), match="not valid"):
        transform.get_deltas(torch.tensor([[1.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 1, 1]]))
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)


# detector_postprocess


def test_postprocess_scales_cuts_and_drops():
    results = Instances(
        (100, 200),  # height, width
        pred_boxes=Boxes([[10, 10, 50, 50], [150, 50, 300, 120], [200, 0, 250, 50]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
    )
    output = detector_postprocess(results, 50, 400)
    assert output.image_size == (50, 400)
    assert output.pred_boxes.tensor.tolist() == [[20, 5, 100, 25], [300, 25, 400, 50]]
    torch.testing.assert_close(output.scores, torch.tensor([0.9, 0.8]))


def test_postprocess_proposals_and_nothing():
    proposals = Instances((10, 10), proposal_boxes=Boxes([[0, 0, 5, 5]]))
    assert detector_postprocess(proposals, 20, 20).proposal_boxes.tensor.tolist() == [
        [0, 0, 10, 10]
    ]
    empty = Instances((10, 10), pred_boxes=Boxes([]), scores=torch.zeros(0))
    assert len(detector_postprocess(empty, 20, 20)) == 0
    with pytest.raises(AssertionError, match="boxes"):
        detector_postprocess(Instances((10, 10), scores=torch.zeros(1)), 20, 20)


def test_postprocess_pastes_masks():
    """A mask whose left half is the object, in an image that is then twice as wide."""
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, 0, :, :2] = 1
    results = Instances(
        (20, 20),
        pred_boxes=Boxes([[4, 4, 12, 12], [20, 0, 25, 5]]),  # the second is outside
        pred_masks=masks,
    )
    output = detector_postprocess(results, 20, 40)
    assert output.pred_boxes.tensor.tolist() == [[8, 4, 24, 12]]
    expected = torch.zeros(1, 20, 40, dtype=torch.bool)
    expected[0, 4:12, 8:16] = True
    expected[0, [4, 4, 11, 11], [8, 15, 8, 15]] = False  # bilinear: corners are round
    assert torch.equal(output.pred_masks, expected)
    strict = detector_postprocess(results, 20, 40, mask_threshold=0.99)
    assert 0 < int(strict.pred_masks.sum()) < int(expected.sum())
    empty = Instances((10, 10), pred_boxes=Boxes([]), pred_masks=torch.zeros(0, 1, 4, 4))
    assert detector_postprocess(empty, 20, 30).pred_masks.shape == (0, 20, 30)


# ROIPooler


def test_pooler_reads_each_box_from_the_level_of_its_size():
    """By formula, one box after the other: level 4 for sides of 224, one more for twice that."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 3, 256 // s, 256 // s, generator=generator) for s in (8, 16, 32)]
    pooler = ROIPooler((4, 4), [1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    sides = [10, 111, 113, 223, 225, 447, 449, 2000]
    boxes = [Boxes([[3.0, 5.0, 3.0 + side, 5.0 + side]]) for side in sides]
    lists = [Boxes.cat(boxes[:3]), Boxes.cat(boxes[3:])]
    pooled = pooler(levels, lists)
    assert pooled.shape == (8, 3, 4, 4)
    for i, (side, box) in enumerate(zip(sides, boxes, strict=True)):
        level = min(max(math.floor(4 + math.log2(side / 224)), 3), 5) - 3
        image = 0 if i < 3 else 1
        expected = roi_align(
            levels[level][image : image + 1], [box.tensor], (4, 4), 1 / 2 ** (level + 3), 0, True
        )
        torch.testing.assert_close(pooled[i : i + 1], expected)


def test_pooler_without_boxes_and_with_gradient():
    levels = [torch.ones(2, 3, 8, 8, requires_grad=True), torch.ones(2, 3, 4, 4)]
    pooler = ROIPooler(7, (1 / 4, 1 / 8), 2, "ROIAlign")
    assert pooler(levels, [Boxes([]), Boxes([])]).shape == (0, 3, 7, 7)
    pooled = pooler(levels, [Boxes([]), Boxes([[4, 4, 20, 20]])])
    torch.testing.assert_close(pooled, torch.ones(1, 3, 7, 7))
    pooled.sum().backward()
    assert levels[0].grad[0].abs().sum() == 0
    assert levels[0].grad[1].abs().sum() > 0


@pytest.mark.parametrize("scales", [(1 / 8, 1 / 32), (1 / 8, 1 / 12), (1 / 16, 1 / 8)])
def test_pooler_refuses_scales(scales):
    with pytest.raises(AssertionError):
        ROIPooler(7, scales, 0, "ROIAlignV2")
