"""Losses on data with boxes, against a loop over images, anchors and phrases."""

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.heads.outputs import HeadOutputs
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.functional import centerness_target
from detclip2.modeling.text.text_batch import TextBatch
from tests.helpers.processes import run_processes

WIDTH, HEIGHT, D = 64, 48, 5
TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def anchors():
    strides = (8, 16)
    generator = DefaultAnchorGenerator(
        sizes=[[4 * s] for s in strides], aspect_ratios=[[1.0]], strides=strides, offset=0.5
    )
    return generator([torch.zeros(1, 1, HEIGHT // s, WIDTH // s) for s in strides])


K = len(Boxes.cat(anchors()))


def sample(phrases, num_positives, boxes=(), classes=(), supervision="detection", **more):
    instances = Instances((HEIGHT, WIDTH))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {
        "supervision": supervision,
        "phrases": phrases,
        "num_positives": num_positives,
        "instances": instances,
        **more,
    }


BIG, SMALL, WIDE = [4, 4, 40, 44], [30, 20, 44, 36], [2, 26, 62, 42]
BATCH = [
    sample(["a", "b", "c"], 2, [BIG, SMALL], [0, 1]),
    sample(["c", "d"], 0),
    # one box with two phrases, one of which it has twice
    sample(["b", "e", "a"], 2, [WIDE, WIDE, SMALL, WIDE], [0, 1, 1, 0], own_phrases_only=True),
    sample(["f", "c"], 1, [SMALL], [0], not_exhaustive=torch.tensor([0])),
]


class Outputs:
    """Random predictions for a batch; a table has the embeddings of phrases, which are letters."""

    def __init__(self, batch_size=4, kind=None):
        self.regions = normal(batch_size, K, D).requires_grad_()
        self.deltas = normal(batch_size, K, 4, seed=1).requires_grad_()
        self.centerness = normal(batch_size, K, seed=2).requires_grad_()
        self.table = normal(26, D, seed=3).requires_grad_()
        self.kind = kind
        self.objectness = normal(batch_size, K, seed=4).requires_grad_()

    def losses(self, samples, share=slice(None), box_losses=None):
        text = TextBatch.from_samples(
            samples, lambda phrases: self.table[[LETTERS.index(phrase) for phrase in phrases]]
        ).gather()
        outputs = HeadOutputs(
            self.regions[share],
            self.deltas[share],
            self.centerness[share],
            anchors=anchors(),
            image_sizes=[(HEIGHT, WIDTH)] * len(samples),
            box2box_transform=TRANSFORM,
            objectness=self.objectness[share] if self.kind else None,
            objectness_kind=self.kind,
        )
        similarity = outputs.regions @ text.embeddings.T
        box_losses = box_losses or DetectionCriterion(ATSSAssigner())
        return box_losses(similarity, outputs, text, samples)

    def gradients(self, losses):
        sum(losses.values()).backward()
        tensors = (self.regions, self.deltas, self.centerness, self.table, self.objectness)
        return [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def slow_losses(samples, outputs):
    """The losses, by a loop over pairs of anchor and phrase."""
    all_anchors = Boxes.cat(anchors())
    names = list(dict.fromkeys(p for s in samples for p in s["phrases"]))
    align = box = center = weights = num_positives = objectness = 0.0
    for b, s in enumerate(samples):
        truth = {}  # box -> its phrases
        gt = s["instances"]
        for corners, n in zip(gt.gt_boxes.tensor.tolist(), gt.gt_classes.tolist(), strict=True):
            truth.setdefault(tuple(corners), set()).add(s["phrases"][n])
        boxes = torch.tensor(list(truth)).reshape(-1, 4)
        assigned = ATSSAssigner()(anchors(), Boxes(boxes)).tolist()
        unknown = {s["phrases"][i] for i in s.get("not_exhaustive", [])}
        if s.get("own_phrases_only"):
            unknown |= set(names) - set(s["phrases"])
        for k, n in enumerate(assigned):
            right = list(truth.values())[n] if n >= 0 else set()
            for name in names:
                if name in unknown and name not in right:
                    continue
                logit = (outputs.regions[b, k] @ outputs.table[LETTERS.index(name)]).float()
                align += sigmoid_focal_loss(logit, torch.tensor(float(name in right)))
            is_object = outputs.objectness[b, k].float()
            if outputs.kind == "class":
                objectness += sigmoid_focal_loss(is_object, torch.tensor(float(n >= 0)))
            if n < 0:
                continue
            num_positives += 1
            target = boxes[n : n + 1]
            weight = centerness_target(all_anchors[k].get_centers(), target)
            predicted = TRANSFORM.apply_deltas(
                outputs.deltas[b, k][None].float(), all_anchors[k].tensor
            )
            box += (1 - generalized_box_iou(predicted, target)[0, 0]) * weight
            if outputs.kind == "iou":
                fit = box_iou(predicted, target).item()
                objectness -= fit * is_object.sigmoid().log()
                objectness -= (1 - fit) * (1 - is_object.sigmoid()).log()
            p = outputs.centerness[b, k].float().sigmoid()
            center -= weight * p.log() + (1 - weight) * (1 - p).log()
            weights += weight
    losses = {
        "loss_align": align / num_positives,
        "loss_box": 2 * (box / weights).squeeze(),
        "loss_centerness": (center / num_positives).squeeze(),
    }
    return {**losses, "loss_objectness": objectness / num_positives} if outputs.kind else losses


KINDS = [None, "class", "iou"]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_the_loop_in_value_and_gradient(kind):
    outputs, others = Outputs(kind=kind), Outputs(kind=kind)
    losses = outputs.losses(BATCH)
    expected = slow_losses(BATCH, others)
    assert {name: loss.shape for name, loss in losses.items()} == dict.fromkeys(expected, ())
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], msg=lambda m, n=name: f"{n}: {m}")
    pairs = zip(outputs.gradients(losses), others.gradients(expected), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert outputs.objectness.grad is None if kind is None else outputs.objectness.grad.any()


def test_weights_of_the_losses():
    ones = DetectionCriterion(ATSSAssigner(), box_weight=1.0, centerness_weight=1.0)
    others = DetectionCriterion(
        ATSSAssigner(), box_weight=6.0, centerness_weight=0.5, objectness_weight=3.0
    )
    plain = Outputs(kind="iou").losses(BATCH, box_losses=ones)
    weighted = Outputs(kind="iou").losses(BATCH, box_losses=others)
    torch.testing.assert_close(weighted["loss_box"], 6 * plain["loss_box"])
    torch.testing.assert_close(weighted["loss_centerness"], plain["loss_centerness"] / 2)
    torch.testing.assert_close(weighted["loss_objectness"], 3 * plain["loss_objectness"])
    torch.testing.assert_close(weighted["loss_align"], plain["loss_align"])


@pytest.mark.parametrize("kind", KINDS)
def test_grounding_has_the_alignment_loss_only(kind):
    grounding = [{**s, "supervision": "grounding"} for s in BATCH]
    detection = Outputs(kind=kind).losses(BATCH)
    losses = Outputs(kind=kind).losses(grounding)
    assert list(losses) == ["loss_align"]
    torch.testing.assert_close(losses["loss_align"], detection["loss_align"])
    ablation = DetectionCriterion(ATSSAssigner(), boxes_of_grounding=True)
    assert Outputs(kind=kind).losses(grounding, box_losses=ablation) == detection


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phrases", [[], ["a", "b"]])
def test_a_batch_without_boxes(phrases, kind):
    outputs = Outputs(kind=kind)
    losses = outputs.losses([sample(phrases, 0) for _ in BATCH])
    assert losses["loss_box"] == 0
    assert losses["loss_centerness"] == 0
    assert (losses["loss_align"] > 0) == bool(phrases)
    for gradient in outputs.gradients(losses):
        assert gradient.isfinite().all()
    assert not outputs.deltas.grad.any()
    if kind:  # no anchor is an object, and no box has an IoU
        assert (losses["loss_objectness"] > 0) == (kind == "class")


def test_a_box_without_an_anchor():
    losses = Outputs(1).losses([sample(["a"], 1, [[8.5, 8.5, 11.0, 11.0]], [0])])
    assert losses["loss_box"] == 0
    assert all(loss.isfinite() for loss in losses.values())


def step(rank, world_size, kind):
    ends = [len(BATCH) * r // world_size for r in range(world_size + 1)]
    share = slice(ends[rank], ends[rank + 1])
    outputs = Outputs(kind=kind)
    losses = outputs.losses(BATCH[share], share)
    return list(losses.values()), outputs.gradients(losses)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["class", "iou"])
@pytest.mark.processes
def test_mean_over_processes_equals_the_joint_batch(kind, world_size):
    """As DistributedDataParallel averages gradients."""
    [joint] = run_processes(step, 1, kind)
    shares = run_processes(step, world_size, kind)
    for ours, of_processes in zip(joint, zip(*shares, strict=True), strict=True):
        for expected, *parts in zip(ours, *of_processes, strict=True):
            torch.testing.assert_close(torch.stack(parts).mean(0), expected)
