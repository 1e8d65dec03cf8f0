"""Small samples for the whole model, and a comparison of two results."""

import dataclasses

import torch
from detectron2.structures import Boxes, Instances

NAMES = ["red apple", "fire engine", "пёс"]


def image(height=64, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 255
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)


def sample(
    boxes=((10, 8, 50, 40), (40, 20, 90, 60)),
    classes=(0, 1),
    phrases=("dog", "cat", "tree"),
    supervision="detection",
    seed=0,
    **more,
):
    pixels = image(seed=seed)
    result = {"image": pixels, "supervision": supervision, "phrases": list(phrases), **more}
    result.setdefault("num_positives", max(classes, default=-1) + 1)
    if supervision != "caption":
        instances = Instances(tuple(pixels.shape[-2:]))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        result["instances"] = instances
    return result


def without_boxes(**more):
    return sample(boxes=(), classes=(), **more)


def captions():
    return [
        sample(supervision="caption", phrases=["a dog by a tree", "dog"], num_positives=2, seed=1),
        sample(supervision="caption", phrases=["two cats", "cats"], num_positives=2, seed=2),
    ]


def set_score_threshold(model, value):
    thresholds = model.postprocess.thresholds
    model.postprocess.thresholds = dataclasses.replace(thresholds, score_threshold=value)


def detect(model, samples):
    return [output["instances"] for output in model(samples)]


def assert_same(ours, theirs):
    assert ours.image_size == theirs.image_size
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3, rtol=1e-4
    )
