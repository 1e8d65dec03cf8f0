"""Post-processing against a plain reference: all scores, then torchvision's NMS name by name."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import nms

from detclip2.modeling import postprocess
from detclip2.modeling.alignment import Alignment
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.postprocess import PostProcess, TopKPerPhrase
from detclip2.modeling.text.text_bank import VocabularyState
from detclip2.modeling.thresholds import DetectionThresholds

K, C, D = 60, 4, 6
SIZE = (50, 70)  # height, width
TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))


class Outputs:
    """Random outputs of the head for one image: boxes that overlap or extend beyond the image."""

    def __init__(self, seed=0, classes=C):
        generator = torch.Generator().manual_seed(seed)
        centers = torch.rand(K, 2, generator=generator) * torch.tensor([110.0, 90.0]) - 20
        self.anchors = torch.cat([centers - 12, centers + 12], dim=1)
        self.deltas = torch.randn(K, 4, generator=generator)
        self.regions = torch.randn(K, D, generator=generator)
        self.centerness = torch.randn(K, generator=generator)
        self.vocabulary = torch.randn(classes, D, generator=generator)
        self.align = Alignment(prior=0.3)

    def records(self):
        """For a batch of two; this image is the second."""

        def second(x):
            return torch.stack([torch.full_like(x, torch.nan), x])

        outputs = HeadOutputs(
            second(self.regions),
            second(self.deltas),
            second(self.centerness),
            anchors=[Boxes(self.anchors[:20]), Boxes(self.anchors[20:])],
            image_sizes=[(1, 1), SIZE],
            box2box_transform=TRANSFORM,
        )
        return outputs, 1, VocabularyState(self.align, self.vocabulary)

    def detect(self, kind=PostProcess, thresholds=None, **options):
        with torch.no_grad():
            return kind(**options)(*self.records(), thresholds)


@torch.no_grad()
def slow_detections(
    outputs,
    score_threshold=0.05,
    nms_threshold=0.6,
    class_agnostic_nms=False,
    max_candidates=3000,
    max_detections=300,
):
    """(score, name, box), best first."""
    probability = outputs.align(outputs.regions, outputs.vocabulary).sigmoid()
    scores = (probability * outputs.centerness.sigmoid()[:, None]).sqrt()
    boxes = TRANSFORM.apply_deltas(outputs.deltas, outputs.anchors)
    limit = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    boxes = boxes.clamp(min=0).minimum(limit)
    pairs = [
        (scores[k, c].item(), c, k)
        for k in range(len(scores))
        for c in range(scores.shape[1])
        if scores[k, c] > score_threshold
    ]
    pairs = sorted(pairs, reverse=True)[:max_candidates]
    kept = []
    for group in [range(C)] if class_agnostic_nms else [[c] for c in range(C)]:
        members = [pair for pair in pairs if pair[1] in group]
        if members:
            chosen = nms(
                torch.stack([boxes[k] for _, _, k in members]),
                torch.tensor([score for score, _, _ in members]),
                nms_threshold,
            )
            kept += [members[i] for i in chosen.tolist()]
    kept = [(s, c, boxes[k]) for s, c, k in sorted(kept, reverse=True)]
    return [d for d in kept if d[2][2] > d[2][0] and d[2][3] > d[2][1]][:max_detections]


@pytest.mark.parametrize("pairs_at_once", [1, 30, 2**23])
@pytest.mark.parametrize("class_agnostic_nms", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_threshold": 0.0},
        {"score_threshold": 0.0, "nms_threshold": 1.0},
        {"score_threshold": 0.4, "nms_threshold": 0.2},
        {"score_threshold": 0.7},
        {"score_threshold": 1.0},
        {"max_candidates": 50},
        {"max_detections": 7},
        {"max_candidates": 30, "max_detections": 20, "nms_threshold": 0.1},
    ],
    ids=str,
)
def test_detections_equal_a_plain_reference(
    monkeypatch, options, class_agnostic_nms, pairs_at_once
):
    monkeypatch.setitem(postprocess.PAIRS_AT_ONCE, "cpu", pairs_at_once)
    monkeypatch.setitem(postprocess.NAMES_AT_ONCE, "cpu", 3 if pairs_at_once < 100 else 1000)
    options = {**options, "class_agnostic_nms": class_agnostic_nms}
    outputs = Outputs()
    expected = slow_detections(outputs, **options)
    found = outputs.detect(**options)
    assert found.image_size == SIZE
    assert found.pred_classes.tolist() == [c for _, c, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in expected]))
    if expected:
        torch.testing.assert_close(
            found.pred_boxes.tensor, torch.stack([b for _, _, b in expected])
        )
    assert bool(expected) == (options.get("score_threshold") != 1.0)


@pytest.mark.parametrize("kind", [PostProcess, TopKPerPhrase])
def test_thresholds_of_a_call_override_its_own(kind):
    outputs = Outputs()
    options = {"nms_threshold": 0.3, "max_detections": 5}
    expected = outputs.detect(kind, **options)
    found = outputs.detect(kind, DetectionThresholds(nms_threshold=0.3), max_detections=5)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    sure = outputs.detect(kind, DetectionThresholds(score_threshold=0.7), **options)
    assert 0 < len(sure) == int((expected.scores > 0.7).sum()) < len(expected)


def test_boxes_are_inside_the_image_and_have_area():
    found = Outputs().detect(score_threshold=0.0, nms_threshold=1.0)
    boxes = found.pred_boxes.tensor
    assert boxes.min() == 0
    assert boxes[:, 0::2].max() == SIZE[1]
    assert boxes[:, 1::2].max() == SIZE[0]
    assert found.pred_boxes.nonempty().all()
    assert len(found) < K * C  # some anchors are entirely outside


def test_no_names_and_one_name():
    outputs = Outputs(classes=0)
    assert len(outputs.detect(score_threshold=0.0)) == 0
    assert set(Outputs(classes=1).detect().pred_classes.tolist()) == {0}


def test_nan_is_not_detected():
    outputs = Outputs()
    outputs.centerness[:20] = float("nan")
    outputs.regions[20:40] = float("nan")
    outputs.deltas[:40] = float("nan")
    found = outputs.detect(score_threshold=0.0)
    assert len(found) > 0
    assert found.pred_boxes.tensor.isfinite().all()
    assert found.scores.isfinite().all()


def test_a_nan_score_of_one_name_hides_no_other():
    outputs = Outputs()
    expected = [pair for pair in slow_detections(outputs) if pair[1] != 2]
    outputs.vocabulary[2] = float("nan")
    found = outputs.detect()
    assert len(expected) > 10
    assert found.pred_classes.tolist() == [name for _, name, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for score, *_ in expected]))


def test_half_precision_is_scored_in_single():
    outputs = Outputs()
    outputs.regions, outputs.centerness = outputs.regions.bfloat16(), outputs.centerness.bfloat16()
    outputs.align, outputs.vocabulary = outputs.align.bfloat16(), outputs.vocabulary.bfloat16()
    found = outputs.detect()
    assert found.scores.dtype == torch.float32
    assert found.pred_boxes.tensor.dtype == torch.float32


@pytest.mark.parametrize("kept", [1, 3, 100])
@pytest.mark.parametrize("seed", range(3))
def test_best_of_each_name_equals_one_name_at_a_time(seed, kept):
    outputs = Outputs(seed)
    found = outputs.detect(TopKPerPhrase, max_detections=kept)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    for name in range(C):
        own = found[found.pred_classes == name]
        of_name = Outputs(seed)
        of_name.vocabulary = outputs.vocabulary[name : name + 1]
        expected = slow_detections(of_name, score_threshold=-1.0, max_detections=kept)
        assert len(own) == len(expected) > 0
        for box, score, (slow_score, _, slow_box) in zip(
            own.pred_boxes.tensor, own.scores.tolist(), expected, strict=True
        ):
            assert score == pytest.approx(slow_score, abs=1e-6)
            torch.testing.assert_close(box, slow_box)


def test_best_of_each_name_has_boxes_for_names_with_low_scores():
    outputs = Outputs()
    outputs.align = Alignment(prior=1e-30)
    assert len(outputs.detect()) == 0
    assert outputs.detect(TopKPerPhrase).pred_classes.unique().tolist() == list(range(C))


def test_best_of_each_name_limits_candidates_by_name():
    found = Outputs().detect(TopKPerPhrase, max_candidates=1)
    assert sorted(found.pred_classes.tolist()) == list(range(C))


def test_best_of_each_name_ignores_non_finite_values():
    outputs = Outputs()
    outputs.regions[:10] = torch.nan
    outputs.deltas[10:20] = torch.nan
    outputs.anchors[20:30] += 1000
    found = outputs.detect(TopKPerPhrase, max_detections=100)
    sound = Outputs()
    for field in ("anchors", "deltas", "regions", "centerness"):
        setattr(sound, field, getattr(sound, field)[30:])
    expected = sound.detect(TopKPerPhrase, max_detections=100)
    # Not bit-identical: rounding of a matrix product depends on its size.
    torch.testing.assert_close(found.scores, expected.scores, atol=0, rtol=1e-6)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_best_of_no_name():
    assert len(Outputs(classes=0).detect(TopKPerPhrase)) == 0


def test_the_similarities_are_never_all_in_memory(monkeypatch):
    outputs = Outputs(classes=500)
    monkeypatch.setitem(postprocess.PAIRS_AT_ONCE, "cpu", 2000)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    kind = PostProcess(max_candidates=100)
    with torch.no_grad(), Sizes():
        found = kind.candidates(*outputs.records(), kind.thresholds.score_threshold)
    assert len(found[0]) == 100
    # a pair above the threshold has two indices; the vocabulary itself is 500 x 6
    assert max(sizes) <= 2 * 2000 < K * 500


@pytest.mark.parametrize("kind", [PostProcess, TopKPerPhrase])
def test_more_detections_than_candidates(kind):
    everything = DetectionThresholds(score_threshold=0.0, nms_threshold=1.0, max_detections=K * C)
    outputs = Outputs()
    few = outputs.detect(kind, everything, max_candidates=5)
    assert len(few) > 5 * C
    whole = outputs.detect(kind, everything, max_candidates=K * C)
    assert torch.equal(few.scores, whole.scores)
