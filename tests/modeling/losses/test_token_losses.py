"""Losses with tokens as columns, against dense targets."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.text.token_batch import TokenBatch
from tests.helpers.head_outputs import head_outputs

SIZE = (48, 64)
BOXES = [(4, 4, 40, 44), (30, 20, 44, 36), (2, 26, 62, 42)]
TOKENS = 6


def outputs(batch_size=2):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.zeros(batch_size, 1, SIZE[0] // s, SIZE[1] // s) for s in (8, 16)]
    return head_outputs(levels, SIZE, generator)


def sample(boxes, classes, supervision="grounding"):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {"supervision": supervision, "instances": instances}


def batch(tokens_of, lengths, not_exhaustive=((), ())):
    """Captions of some lengths whose phrases have these tokens."""
    mask = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]
    rows = []
    for phrases in tokens_of:
        own = torch.zeros(len(phrases), TOKENS, dtype=torch.bool)
        for row, tokens in zip(own, phrases, strict=True):
            row[list(tokens)] = True
        rows.append(own)
    indices = [torch.tensor(own, dtype=torch.int64) for own in not_exhaustive]
    return TokenBatch(torch.zeros(len(lengths), TOKENS, 2), mask, rows, indices)


def logits(batch_size=2, places=60):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, places, TOKENS, generator=generator)


SAMPLES = [sample(BOXES[:2], [0, 1]), sample(BOXES[2:], [0])]
CAPTIONS = batch([[(1,), (2, 3)], [(1, 4)]], [5, TOKENS])


def test_token_loss_equals_dense_targets():
    """All tokens of the box's phrase; every real token is a negative elsewhere; padding is not.

    The second caption fills all tokens: its last one, the end, is a negative like any other.
    """
    out, values = outputs(), logits()
    assigner = ATSSAssigner(inset=0.5)
    criterion = DetectionCriterion(assigner, boxes_of_grounding=True)
    losses = criterion(values, out, CAPTIONS, SAMPLES)
    targets, positives = torch.zeros_like(values), 0
    tokens = [[(1,), (2, 3)], [(1, 4)]]
    box_sum = centerness_sum = weight_sum = 0.0
    for b, one in enumerate(SAMPLES):
        boxes = one["instances"].gt_boxes
        assigned = assigner(out.anchors, boxes)
        for k in (assigned >= 0).nonzero().squeeze(1).tolist():
            n = int(assigned[k])
            targets[b, k, list(tokens[b][n])] = 1
            positives += 1
            x, y = out.all_anchors.get_centers()[k].tolist()
            x1, y1, x2, y2 = boxes.tensor[n].tolist()
            left, right, top, bottom = x - x1 - 0.5, x2 - x - 0.5, y - y1 - 0.5, y2 - y - 0.5
            ratio = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            weight = torch.tensor(ratio**0.5)
            half = torch.tensor([0.5, 0.5, -0.5, -0.5])
            box_sum += weight * generalized_box_iou_loss(
                out.boxes_at(b, torch.tensor([k]))[0] + half, boxes.tensor[n] + half
            )
            centerness_sum += torch.nn.functional.binary_cross_entropy_with_logits(
                out.centerness[b, k], weight
            )
            weight_sum += weight
    dense = sigmoid_focal_loss(values, targets, alpha=0.25, gamma=2)
    expected = (dense * CAPTIONS.mask[:, None]).sum() / positives
    torch.testing.assert_close(losses["loss_align"], expected)
    torch.testing.assert_close(losses["loss_box"], 2 * box_sum / weight_sum)
    torch.testing.assert_close(losses["loss_centerness"], centerness_sum / positives)
    assert positives >= 4


def test_grounding_data_trains_boxes_as_detection_data_do():
    criterion = DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True)
    detection = [{**one, "supervision": "detection"} for one in SAMPLES]
    a = criterion(logits(), outputs(), CAPTIONS, SAMPLES)
    b = criterion(logits(), outputs(), CAPTIONS, detection)
    assert a == b
    assert set(a) == {"loss_align", "loss_box", "loss_centerness"}


def test_a_box_without_tokens_is_no_target():
    criterion = DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True)
    captions = batch([[(1,), ()], [(1, 4)]], [5, TOKENS])
    fewer = [sample(BOXES[:1], [0]), SAMPLES[1]]
    a = criterion(logits(), outputs(), captions, SAMPLES)
    assert a == criterion(logits(), outputs(), captions, fewer)
    assert a != criterion(logits(), outputs(), CAPTIONS, SAMPLES)
    none = batch([[(), ()], [()]], [5, TOKENS])
    losses = criterion(logits(), outputs(), none, SAMPLES)
    assert losses["loss_box"] == losses["loss_centerness"] == 0
    assert losses["loss_align"].isfinite()


def test_a_box_of_two_phrases_has_the_tokens_of_both():
    criterion = DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True)
    twice = [sample([BOXES[0], BOXES[0]], [0, 1])]
    once = [sample([BOXES[0]], [0])]
    a = criterion(logits(1), outputs(1), batch([[(1,), (2, 3)]], [5], [()]), twice)
    b = criterion(logits(1), outputs(1), batch([[(1, 2, 3)]], [5], [()]), once)
    for name, loss in a.items():
        torch.testing.assert_close(loss, b[name])


def test_the_loss_of_a_caption_does_not_depend_on_padding():
    criterion = DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True)
    values = logits()
    other = values.clone()
    other[0, :, 5:] += 3
    a, b = (criterion(v, outputs(), CAPTIONS, SAMPLES) for v in (values, other))
    assert a["loss_align"].item() == pytest.approx(b["loss_align"].item())
