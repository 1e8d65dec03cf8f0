from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from detectron2.structures import Boxes, Instances

from detclip2.inference.results import Labels
from detclip2.visualization import detections as module
from detclip2.visualization.detections import draw_instances, font_for


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
    # The first two colours of supervision's palette: #A351FB and #FF4040.
    assert drawn[65, 10].tolist() == [0xA3, 0x51, 0xFB]
    assert drawn[65, 110].tolist() == [0xFF, 0x40, 0x40]


def test_the_best_is_drawn_last():
    both = instances((100, 100), [[20, 30, 80, 90], [20, 30, 80, 90]])
    drawn = draw_instances(np.zeros((100, 100, 3), np.uint8), both)
    assert drawn[60, 20].tolist() == [0xA3, 0x51, 0xFB]


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


@pytest.mark.parametrize(("count", "spread"), [(1, True), (3, False)])
def test_only_so_many_labels_are_moved_apart(monkeypatch, count, spread):
    # The time to move them grows with the square of their number: minutes for thousands.
    seen, annotator = [], sv.RichLabelAnnotator
    monkeypatch.setattr(module, "MOST_SPREAD", 2)
    monkeypatch.setattr(
        sv, "RichLabelAnnotator", lambda **o: seen.append(o["smart_position"]) or annotator(**o)
    )
    image = np.zeros((100, 200, 3), np.uint8)
    draw_instances(image, instances((100, 200), [[10, 40, 80, 90]] * count))
    assert seen == [spread]
