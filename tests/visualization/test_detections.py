from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.inference.results import Labels
from detclip2.visualization.detections import (
    COLORS,
    draw_instances,
    font_for,
    label_corners,
    places_of,
)


def instances(size, boxes, labels=None):
    count = len(boxes)
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.linspace(0.9, 0.5, count),
        pred_classes=torch.arange(count),
        labels=Labels(labels or [f"thing {i}" for i in range(count)]),
    )


def test_draws_at_the_box_alone():
    image = np.full((200, 300, 3), 50, np.uint8)
    drawn = draw_instances(image, instances((200, 300), [[100, 80, 250, 180]]))
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 50).all()
    changed = (drawn != 50).any(2)
    for y, x in [(80, 170), (180, 170), (130, 100), (130, 250)]:
        assert changed[y - 2 : y + 3, x - 2 : x + 3].any()
    assert changed[60:80, 100:160].any()  # the label sits on the box
    assert not changed[85:175, 105:245].any()
    assert not changed[:50].any()


def test_colours_are_rgb_with_one_for_each_label():
    image = np.zeros((100, 200, 3), np.uint8)
    two = instances((100, 200), [[10, 40, 80, 90], [110, 40, 180, 90]])
    drawn = draw_instances(image, two)
    # The first two of the palette: #e6194b and #3cb44b.
    assert drawn[65, 10].tolist() == [0xE6, 0x19, 0x4B]
    assert drawn[65, 110].tolist() == [0x3C, 0xB4, 0x4B]


def test_masks_are_tinted_and_the_best_is_over_the_others():
    image = np.full((100, 200, 3), 100, np.uint8)
    two = instances((100, 200), [[20, 30, 100, 90], [60, 30, 180, 90]])
    two.pred_masks = torch.zeros(2, 100, 200, dtype=torch.bool)
    two.pred_masks[0, 50:70, 40:90] = True
    two.pred_masks[1, 50:70, 70:150] = True
    drawn = draw_instances(image, two)
    red, green = (0.55 * 100 + 0.45 * np.array(color) for color in COLORS[:2])
    assert np.abs(drawn[60, 80] - red).max() <= 1
    assert np.abs(drawn[60, 130] - green).max() <= 1
    assert drawn[80, 80].tolist() == [100, 100, 100]
    assert (image == 100).all()


def test_the_best_is_drawn_last():
    both = instances((100, 100), [[20, 30, 80, 90], [20, 30, 80, 90]])
    drawn = draw_instances(np.zeros((100, 100, 3), np.uint8), both)
    assert drawn[60, 20].tolist() == [0xE6, 0x19, 0x4B]


def test_lines_and_text_grow_with_the_image():
    painted = []
    for side in (200, 2000):
        image = np.zeros((side, side, 3), np.uint8)
        box = [side * 0.3, side * 0.3, side * 0.9, side * 0.9]
        painted.append(draw_instances(image, instances((side, side), [box])).any(2).mean())
    small, large = painted
    assert large > small / 3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (8, 8), (64, 64)])
def test_small_images(size):
    height, width = size
    image = np.full((*size, 3), 50, np.uint8)
    assert draw_instances(image, instances(size, [[0, 0, width, height]])).shape == image.shape


def test_nothing_found():
    image = np.full((20, 20, 3), 50, np.uint8)
    drawn = draw_instances(image, instances((20, 20), []))
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_labels_in_any_script():
    image = np.full((200, 300, 3), 50, np.uint8)
    labels = ["пожарная машина", "りんご", "تفاحة", "🍎", "a\nb", "x" * 1000]
    boxes = [[20 * i, 20 * i, 20 * i + 50, 20 * i + 60] for i in range(len(labels))]
    drawn = draw_instances(image, instances((200, 300), boxes, labels))
    assert (drawn != image).any()


def test_font_has_the_characters_or_is_the_default():
    from matplotlib.ft2font import FT2Font

    default = font_for("red apple 0.9")
    assert Path(default).name == "DejaVuSans.ttf"
    assert font_for("яблоко") == default
    assert font_for("\U0010fffd") == default  # a character of no font
    assert FT2Font(font_for("🍎 0.9")).scalable


def test_any_two_colours_can_be_distinguished():
    lab = cv2.cvtColor(np.array([COLORS], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    # 2.3 is a just noticeable difference (CIE76).
    assert distances[~np.eye(len(COLORS), dtype=bool)].min() > 25


def test_one_label_for_a_place():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 90, 90], [0, 0, 10, 9], [1, 0, 11, 10]], float)
    assert places_of(boxes, np.array([0.3, 0.4, 0.9, 0.2])) == [(2, 2), (1, 0)]
    # Objects that suppression keeps side by side stay: an overlap of 0.6.
    assert len(places_of(np.array([[0, 0, 10, 10], [0, 0, 10, 6]], float), np.ones(2))) == 2
    assert places_of(np.zeros((2, 4)), np.ones(2)) == [(0, 0), (1, 0)]


def overlap(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    return max(0, sides[0]) * max(0, sides[1])


def test_labels_stay_at_their_boxes_and_do_not_hide_each_other():
    boxes = np.array([[20, 40, 150, 160], [24, 42, 148, 158], [30, 44, 140, 150]], float)
    corners = label_corners(boxes, [(60, 12)] * 3, (200, 200))
    labels = [(x, y, x + 60, y + 12) for x, y in corners]
    assert corners[0] == (20, 28)
    for label, (x1, y1, x2, y2) in zip(labels, boxes, strict=True):
        assert overlap(label, (x1 - 1, y1 - 13, x2 + 1, y2 + 13)) == 60 * 12
    assert not any(overlap(labels[i], labels[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("box", [[0, 0, 200, 100], [190, 90, 200, 100], [0, 0, 1, 1]])
def test_labels_are_inside_the_image(box):
    [(x, y)] = label_corners(np.array([box], float), [(60, 12)], (100, 200))
    assert 0 <= x <= 140
    assert 0 <= y <= 88


def test_a_crowd_of_labels_is_placed_at_once():
    boxes = np.tile(np.array([[10, 40, 80, 90]], float), (2000, 1))
    boxes += np.arange(2000)[:, None] % 97
    assert len(label_corners(boxes, [(60, 12)] * 2000, (300, 300))) == 2000
