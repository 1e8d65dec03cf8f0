import pytest
import torch
from torchvision.ops import box_iou

from detclip2.modeling.proposals import proposal_scores, select_proposals, stack_proposals

SIMILARITY = torch.tensor([[-1.0, 2.0, 0.5], [3.0, -4.0, -2.0]])  # (K, M)
OWN = torch.tensor([1, 2])
CENTERNESS = torch.tensor([-0.3, 1.1])
OBJECTNESS = torch.tensor([0.7, -0.2])


def sigmoid(*logits):
    return torch.tensor(logits).sigmoid()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("class", sigmoid(0.7, -0.2)),
        ("iou", sigmoid(0.7, -0.2)),
        ("centerness", sigmoid(-0.3, 1.1)),
        ("text_sample", sigmoid(2.0, -2.0)),
        ("text_batch", sigmoid(2.0, 3.0)),
        ("text_batch_centerness", sigmoid(2.0, 3.0) * sigmoid(-0.3, 1.1)),
    ],
)
def test_scores_equal_their_definition(kind, expected):
    scores = proposal_scores(kind, SIMILARITY, OWN, CENTERNESS, OBJECTNESS)
    torch.testing.assert_close(scores.exp(), expected)


def test_confident_scores_remain_distinct_in_half_precision():
    similarity = torch.tensor([[20.0], [21.0]], dtype=torch.bfloat16)
    first, second = proposal_scores("text_batch", similarity, OWN[:0], CENTERNESS)
    assert first < second


def test_scores_without_phrases():
    own = OWN[:0]
    torch.testing.assert_close(
        proposal_scores("text_sample", SIMILARITY, own, CENTERNESS).exp(), sigmoid(2.0, 3.0)
    )
    for kind in ("text_sample", "text_batch", "text_batch_centerness"):
        scores = proposal_scores(kind, SIMILARITY[:, :0], own, CENTERNESS)
        torch.testing.assert_close(scores.exp(), sigmoid(-0.3, 1.1))


@pytest.mark.parametrize("kind", ["class", "iou"])
def test_a_score_that_the_head_does_not_predict_is_refused(kind):
    with pytest.raises(ValueError, match=f"'{kind}' is that of the head's objectness"):
        proposal_scores(kind, SIMILARITY, OWN, CENTERNESS)


def slow_selection(boxes, scores, num, threshold, pre_nms):
    kept = []
    for k in sorted(range(len(boxes)), key=lambda k: -scores[k])[:pre_nms]:
        if all(box_iou(boxes[k : k + 1], boxes[j : j + 1]) <= threshold for j in kept):
            kept.append(k)
    return kept[:num]


@pytest.mark.parametrize(("num", "threshold", "pre_nms"), [(5, 0.3, 100), (40, 0.6, 25)])
def test_selection_equals_a_loop(num, threshold, pre_nms):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(60, 2, generator=generator) * 20], dim=1)
    scores = torch.randn(60, generator=generator)
    chosen = select_proposals(boxes, scores, num, threshold, pre_nms)
    assert chosen.tolist() == slow_selection(boxes, scores, num, threshold, pre_nms)
    assert len(chosen) < min(60, pre_nms)


def test_boxes_without_area_are_never_chosen():
    boxes = torch.tensor(
        [[0, 0, 0, 9], [0, 0, 9, 9], [5, 5, 3, 9], [0, 0, float("nan"), 9], [20, 0, 29, 9]]
    )
    assert select_proposals(boxes, torch.tensor([5.0, 1, 5, 5, 2])).tolist() == [4, 1]
    assert select_proposals(boxes[:1], torch.ones(1)).tolist() == []
    assert select_proposals(boxes[:0], torch.ones(0)).tolist() == []


def test_padding_is_marked():
    index, valid = stack_proposals([torch.tensor([4, 2]), torch.tensor([], dtype=torch.int64)], 3)
    assert index.tolist() == [[4, 2, 0], [0, 0, 0]]
    assert valid.tolist() == [[True, True, False], [False, False, False]]
