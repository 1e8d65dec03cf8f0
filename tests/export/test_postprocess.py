"""The numpy post-processing equals that of the model, for every setting."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import detector_postprocess
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes

from detclip2.export.info import GraphInfo
from detclip2.export.postprocess import batched_nms, candidates, iou, postprocess
from detclip2.export.runner import new_size, prepared
from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.text.text_bank import prepared as prepared_vocabulary
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError

INFO = GraphInfo(
    encoder="",
    probe=(1.0,),
    size=None,
    min_size=96,
    max_size=160,
    divisor=32,
    padding=(123.675, 116.28, 103.53),
    score_threshold=0.2,
    nms_threshold=0.6,
    class_agnostic_nms=False,
    max_detections=50,
    max_candidates=400,
)
SEEN, ORIGINAL = (90, 120), (301, 399)


def outputs_of(seed, anchors=600, width=8):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(anchors, 2, generator=generator) * torch.tensor([140.0, 110.0]) - 10
    sides = torch.rand(anchors, 2, generator=generator) * 60
    return HeadOutputs(
        regions=torch.randn(1, anchors, width, generator=generator) * 2,
        deltas=torch.randn(1, anchors, 4, generator=generator),
        centerness=torch.randn(1, anchors, generator=generator) * 3,
        anchors=[Boxes(torch.cat([corners, corners + sides], dim=1))],
        image_sizes=[SEEN],
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_agnostic_nms": True},
        {"score_threshold": 0.0, "max_candidates": 1000, "max_detections": 1000},
        {"score_threshold": 0.999},
        {"score_threshold": 1.0},
        {"nms_threshold": 0.0, "max_detections": 3},
        {"nms_threshold": 1.0},
        {"max_candidates": 1},
    ],
)
@pytest.mark.parametrize("rows", [None, (1, 3, 1, 2)])
def test_equal_to_the_model(settings, rows):
    info = replace(INFO, **settings, rows=rows)
    outputs, align = outputs_of(0), Alignment()
    phrases = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    label_of_row = None if rows is None else torch.arange(4).repeat_interleave(torch.tensor(rows))
    state = prepared_vocabulary(phrases, label_of_row, list, align)
    names = ("score_threshold", "nms_threshold", "class_agnostic_nms")
    thresholds = DetectionThresholds(**{name: getattr(info, name) for name in names})
    with torch.no_grad():
        model = PostProcess(max_candidates=info.max_candidates, max_detections=info.max_detections)
        expected = detector_postprocess(model(outputs, 0, state, thresholds), *ORIGINAL)
        arrays = align(outputs.regions[0], phrases), outputs.centerness[0]
        boxes = outputs.boxes_at(0, slice(None))
    numpy = [tensor.numpy() for tensor in (*arrays, boxes)]
    found, scores, labels = postprocess(*numpy, info, SEEN, ORIGINAL)
    assert len(found) == len(expected)
    assert (len(found) > 0) == (info.score_threshold < 0.99)
    assert labels.tolist() == expected.pred_classes.tolist()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found, expected.pred_boxes.tensor, atol=1e-3)
    assert (found.dtype, scores.dtype) == (np.float32, np.float32)


def test_thresholds_of_labels():
    arrays = [np.full((1, 2), 3, np.float32), np.full(1, 9, np.float32)]
    boxes = np.array([[10, 10, 30, 40]], np.float32)
    info = replace(INFO, thresholds=(0.99, 0.5))
    _, _, labels = postprocess(*arrays, boxes, info, SEEN, ORIGINAL)
    assert labels.tolist() == [1]


def test_nothing_survives_nothing():
    empty = np.zeros((0, 4), np.float32)
    assert batched_nms(empty, np.zeros(0, int), 0.5).tolist() == []
    logits, centerness = np.zeros((5, 0), np.float32), np.zeros(5, np.float32)
    assert [len(part) for part in candidates(logits, centerness, 0.0, 10)] == [0, 0, 0]


def test_nan_hides_only_its_own_pair():
    logits = np.array([[np.nan, 2.0], [np.nan, np.nan]], np.float32)
    scores, anchor, label = candidates(logits, np.zeros(2, np.float32), 0.1, 10)
    assert (anchor.tolist(), label.tolist()) == ([0], [1])
    assert scores[0] == pytest.approx((0.5 / (1 + np.exp(-2))) ** 0.5)


def test_iou():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [50, 50, 51, 51]])
    np.testing.assert_allclose(iou(box, others), [1, 1 / 3, 0, 0])


def test_sizes_are_those_of_detectron2():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (500, 2)).tolist():
        low, high = rng.integers(32, 1400, 2).tolist()
        expected = ResizeShortestEdge.get_output_shape(height, width, low, max(low, high))
        info = replace(INFO, min_size=low, max_size=max(low, high))
        assert new_size((height, width), info) == tuple(max(1, side) for side in expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [((100, 100), (64, 64)), ((200, 100), (64, 32)), ((10, 1000), (1, 96)), ((64, 96), (64, 96))],
)
def test_at_a_fixed_size_an_image_is_scaled_to_fit(image, expected):
    info = replace(INFO, size=(64, 96))
    pixels, seen = prepared(np.full((*image, 3), 7, np.uint8), info)
    assert (pixels.shape, seen) == ((1, 3, 64, 96), expected)
    assert (pixels[0, :, : seen[0], : seen[1]] == 7).all()
    padding = pixels[0, :, seen[0] :, :]
    assert (padding == np.array(info.padding, np.float32)[:, None, None]).all()


def test_metadata_survive_a_file():
    info = replace(INFO, labels=("pomme \U0001f34e", 'a "b"'), rows=(1, 2), size=(64, 96))
    assert GraphInfo.from_properties(info.properties(), "x") == info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detclip2.format": "detclip2-graph-0"}, "it is detclip2-graph-0, where"),
        ({"detclip2.format": None}, "it has no metadata of detclip2"),
        ({"detclip2.size": None}, "damaged: KeyError"),
        ({"detclip2.size": "[1,"}, "damaged"),
    ],
)
def test_metadata_that_cannot_be_read(change, message):
    properties = INFO.properties() | change
    present = {key: value for key, value in properties.items() if value is not None}
    with pytest.raises(UserError, match=message):
        GraphInfo.from_properties(present, "x.onnx")
