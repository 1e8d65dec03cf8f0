"""From token logits to detections, against loops over anchors and names."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes

from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.text.caption_state import EncodedCaption
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.modeling.token_postprocess import Candidates, TokenPostProcess

SIZE = (60, 80)
TOKENS_OF_NAME = [[1], [3, 4], [6, 7, 8]]
LABELS = [5, 0, 2]


def outputs(seed=0, sizes=(30, 6)):
    """Two levels of anchors that hardly overlap."""
    generator = torch.Generator().manual_seed(seed)
    anchors = []
    for size in sizes:
        corner = torch.rand(size, 2, generator=generator) * torch.tensor([90, 70]) - 10
        anchors.append(Boxes(torch.cat([corner, corner + 12], dim=1)))
    total = sum(sizes)
    return HeadOutputs(
        regions=torch.zeros(1, total, 4),
        deltas=torch.randn(1, total, 4, generator=generator),
        centerness=torch.randn(1, total, generator=generator),
        anchors=anchors,
        image_sizes=[SIZE],
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
    )


def caption():
    weights = torch.zeros(10, 3)
    for name, tokens in enumerate(TOKENS_OF_NAME):
        weights[tokens, name] = 1 / len(tokens)
    return EncodedCaption("", torch.zeros(1, 10, 4), weights, torch.tensor(LABELS))


def logits(seed=1, places=36):
    return 3 * torch.randn(places, 10, generator=torch.Generator().manual_seed(seed)) - 1


def pairs(candidates):
    rows = zip(candidates.scores.tolist(), candidates.labels.tolist(), strict=True)
    return sorted((label, round(score, 5)) for score, label in rows)


def by_loops(out, values, least=0.05, most=1000):
    """(label, score) of the best names of each level."""
    found, first = [], 0
    for level in out.anchors:
        of_level = []
        for k in range(first, first + len(level)):
            centerness = out.centerness[0, k].sigmoid().item()
            for tokens, label in zip(TOKENS_OF_NAME, LABELS, strict=True):
                probability = sum(values[k, t].sigmoid().item() for t in tokens) / len(tokens)
                if probability > least:
                    of_level.append((probability * centerness, label))
        of_level.sort(reverse=True)
        found += [(label, round(product**0.5, 5)) for product, label in of_level[:most]]
        first += len(level)
    return sorted(found)


@pytest.mark.parametrize("most", [1000, 4])
def test_candidates_equal_loops(most):
    """The mean of sigmoids; the threshold before centerness; so many a level."""
    out, values = outputs(), logits()
    postprocess = TokenPostProcess(max_candidates=most)
    found = postprocess.candidates(out, 0, values, caption())
    assert pairs(found) == by_loops(out, values, most=most)
    assert len(found.scores) > 7


def test_the_threshold_is_of_the_probability_alone():
    """A name above it stays, however low the centerness."""
    out, values = outputs(), logits()
    out.centerness.fill_(-20)
    found = TokenPostProcess().candidates(out, 0, values, caption())
    assert pairs(found) == by_loops(out, values)
    assert found.scores.max() < 1e-4
    high = TokenPostProcess(min_probability=0.5).candidates(out, 0, values, caption())
    assert 0 < len(high.scores) < len(found.scores)


def test_the_score_threshold_is_of_the_final_score():
    out, values = outputs(), logits()
    postprocess = TokenPostProcess()
    everything = postprocess.candidates(out, 0, values, caption())
    chosen = DetectionThresholds(score_threshold=0.6)
    found = postprocess.candidates(out, 0, values, caption(), chosen)
    assert len(found.scores) == (everything.scores >= 0.6).sum() > 0
    own = TokenPostProcess(score_threshold=0.6).candidates(out, 0, values, caption())
    assert pairs(own) == pairs(found)


def test_nothing_that_is_not_a_number_is_found():
    out, values = outputs(), logits()
    values[3] = torch.nan
    out.centerness[0, 4] = torch.nan
    found = TokenPostProcess(min_probability=0.0).candidates(out, 0, values, caption())
    assert found.scores.isfinite().all()
    assert len(found.scores) == 34 * 3


def test_captions_are_joined_before_suppression():
    """A label with names in two captions is one label, and other labels do not suppress it."""
    box = torch.tensor([[10.0, 10, 30, 30]])
    column = torch.tensor([0])
    first = Candidates(box, torch.tensor([0.6]), torch.tensor([1]), column)
    second = Candidates(box + 1, torch.tensor([0.8]), torch.tensor([1]), column)
    third = Candidates(box, torch.tensor([0.5]), torch.tensor([2]), column)
    postprocess = TokenPostProcess()
    found = postprocess([first, second, third], SIZE)
    assert found.scores.tolist() == pytest.approx([0.8, 0.5])
    assert found.pred_classes.tolist() == [1, 2]
    assert found.image_size == SIZE
    agnostic = DetectionThresholds(class_agnostic_nms=True)
    assert len(postprocess([first, second, third], SIZE, agnostic)) == 1
    assert (
        len(postprocess([first, second, third], SIZE, DetectionThresholds(max_detections=1))) == 1
    )


def test_boxes_are_clipped_and_empty_ones_dropped():
    boxes = torch.tensor([[-5.0, -5, 100, 100], [90, 10, 95, 20]])
    found = TokenPostProcess()(
        [Candidates(boxes, torch.tensor([0.6, 0.7]), *torch.zeros(2, 2, dtype=torch.int64))], SIZE
    )
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 80, 60]]


def test_no_caption_finds_nothing():
    assert len(TokenPostProcess()([Candidates.none(torch.device("cpu"))], SIZE)) == 0
