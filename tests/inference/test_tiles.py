"""Tiles: every pixel is in one, cut boxes give way to whole ones, and small things are found."""

import numpy as np
import pytest
import supervision as sv
import torch
from detectron2.structures import Instances

from detclip2.inference.results import to_supervision
from detclip2.inference.tiles import OVERLAP, TiledPredictor, _masks_at, cut_boxes, merge, tiles
from detclip2.utils.errors import UserError
from tests.helpers.color_model import draw_image, equal


@pytest.mark.parametrize("size", [64, 100, 640])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (1, 1000), (641, 640), (777, 1501), (20, 30)]
)
def test_tiles_cover_the_image_and_overlap(height, width, size):
    seen = np.zeros((height, width), int)
    places = [*tiles(height, width, size)]
    for x1, y1, x2, y2 in places:
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        seen[y1:y2, x1:x2] += 1
    assert seen.min() == 1
    for axis, length in ((0, width), (1, height)):
        starts = sorted({place[axis] for place in places})
        steps = np.diff(starts)
        assert length <= size or (steps <= size * (1 - OVERLAP) + 1).all()
    assert len(places) == len(set(places))


@pytest.fixture
def tiled(colors):
    colors.set_vocabulary(["red", "lime", "blue"])
    return TiledPredictor(colors, 100)


def test_an_image_as_large_as_a_tile_is_detected_as_it_is(tiled, colors):
    image = draw_image(90, 100, red=(5, 5, 20, 30))
    assert equal(tiled(image), colors(image))
    [found] = tiled(iter([image]))
    assert equal(found, colors(image))


def test_each_thing_is_found_once_wherever_it_lies(tiled):
    for x in range(0, 280, 13):
        box = (x, 120, x + 15, 131)
        # The whole image, at half of its size, gives a box that is some pixels off.
        found = tiled(draw_image(250, 300, blue=box), nms_threshold=0.3)
        assert found.labels == ["blue"], x
        np.testing.assert_allclose(found.pred_boxes.tensor[0], box, atol=3)
        assert found.image_size == (250, 300)


def test_what_is_larger_than_a_tile_comes_from_the_whole_image(tiled):
    box = (10, 20, 270, 230)
    found = tiled(draw_image(250, 300, lime=box))
    assert found.labels == ["lime"]
    np.testing.assert_allclose(found.pred_boxes.tensor[0], box, atol=4)


def test_cut_boxes():
    boxes = torch.tensor([[0.0, 5, 10, 20], [5, 5, 99, 20], [5, 5, 20, 100], [5, 5, 20, 20]])
    inner = cut_boxes(boxes, (50, 50, 150, 150), 300, 300)
    assert inner.tolist() == [True, True, True, False]
    corner = cut_boxes(boxes, (0, 0, 100, 100), 100, 300)
    assert corner.tolist() == [False, True, False, False]


def test_merging_gives_way_to_whole_boxes():
    boxes = torch.tensor(
        [
            [0.0, 0, 100, 100],  # whole
            [0, 0, 50, 100],  # a piece of it with a better score
            [2, 0, 101, 100],  # the same from another tile
            [0, 0, 50, 100],  # of another name
            [200, 0, 300, 100],  # pieces of a thing that is whole nowhere
            [210, 0, 300, 100],
        ]
    )
    scores = torch.tensor([0.5, 0.9, 0.4, 0.3, 0.6, 0.7])
    groups = torch.tensor([0, 0, 0, 1, 0, 0])
    is_cut = torch.tensor([False, True, False, True, True, True])
    kept = merge(boxes, scores, groups, is_cut, 0.6)
    assert kept.tolist() == [5, 0, 3]
    nothing = torch.zeros(0)
    empty = merge(nothing.reshape(0, 4), nothing, nothing.long(), nothing.bool(), 0.6)
    assert empty.tolist() == []


def test_without_cut_boxes_it_is_what_supervision_finds(colors):
    colors.set_vocabulary(["red", "lime", "blue"])
    # No edge of a tile, theirs or ours, crosses these.
    boxes = {"red": (30, 30, 58, 58), "lime": (175, 325, 203, 353), "blue": (5, 360, 33, 388)}
    image = draw_image(400, 400, **boxes)

    def detect(tile):
        return to_supervision(colors(tile))

    slicer = sv.InferenceSlicer(detect, slice_wh=150, overlap_wh=30, thread_workers=1)
    theirs, ours = slicer(image), TiledPredictor(colors, 150)(image, nms_threshold=0.3)
    assert sorted(theirs["class_name"]) == sorted(ours.labels)
    order = np.argsort(theirs.class_id)
    mine = np.argsort(ours.pred_classes.numpy())
    np.testing.assert_allclose(ours.pred_boxes.tensor.numpy()[mine], theirs.xyxy[order], atol=3)


def test_masks_come_back_in_the_image(tiled, monkeypatch):
    """The masks of this model are the pixels of a colour, so that the truth is in the image."""
    model = tiled.predictor.model
    inference = model.inference

    def with_masks(samples, **options):
        found = inference(samples, **options)
        for sample, instances in zip(samples, found, strict=True):
            colors = (sample["vocabulary"] * 255)[instances.pred_classes]
            same = (sample["image"] - colors[:, :, None, None]).abs().sum(1) < 30
            rows = torch.arange(sample["height"]) * same.shape[1] // sample["height"]
            columns = torch.arange(sample["width"]) * same.shape[2] // sample["width"]
            instances.pred_masks = same[:, rows][:, :, columns]
        return found

    monkeypatch.setattr(model, "inference", with_masks)
    boxes = {"red": (5, 5, 20, 20), "lime": (110, 120, 130, 141), "blue": (200, 200, 215, 215)}
    image = draw_image(250, 300, **boxes)
    found = tiled(image, nms_threshold=0.3)
    assert found.labels == ["red", "lime", "blue"]
    assert found.pred_masks.shape == (3, 250, 300)
    for (x1, y1, x2, y2), mask in zip(boxes.values(), found.pred_masks.numpy(), strict=True):
        true = np.zeros((250, 300), bool)
        true[y1:y2, x1:x2] = True
        assert (mask & true).sum() > 0.85 * (mask | true).sum()
    nothing = tiled(draw_image(250, 300))
    assert nothing.pred_masks.shape == (0, 250, 300)


def test_settings_of_a_call(tiled):
    image = draw_image(250, 300, red=(5, 5, 20, 20), blue=(200, 200, 215, 215))
    assert len(tiled(image)) == 2
    assert tiled(image, score_threshold=0.9).labels == ["red"]
    assert tiled(image, max_detections=1).labels == ["red"]
    with pytest.raises(UserError, match="too small"):
        TiledPredictor(tiled.predictor, 8)


def test_masks_are_those_of_their_detections():
    def found(*values):
        masks = torch.zeros(len(values), 2, 4, dtype=torch.bool)
        for mask, value in zip(masks, values, strict=True):
            mask[0, value] = True
        return Instances((2, 4), pred_masks=masks)

    parts = [((0, 0, 4, 2), found(0), None), ((2, 0, 6, 2), found(1, 2), None)]
    masks = _masks_at(torch.tensor([2, 0, 1]), parts, (2, 6))
    assert masks[:, 0].int().argmax(1).tolist() == [4, 0, 3]
