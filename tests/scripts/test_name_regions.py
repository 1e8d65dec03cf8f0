"""Regions named by a classifier whose features are the colours of the image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from detclip2.data.datasets.grounding import OdvgFile
from scripts import name_regions as script


class Colours(nn.Module):
    """Features are the mean red, green and blue of cells of 32 px; each is a class of its own."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(3, 1000, bias=False)
        with torch.no_grad():
            self.classifier.weight.zero_()
            self.classifier.weight[:3] = 10 * torch.eye(3)

    def forward_features(self, x):
        return F.relu(F.avg_pool2d(x, 32))

    def get_classifier(self):
        return self.classifier


@pytest.fixture
def teacher():
    names = ["apple", "leaf", "sea", *(f"class {i}" for i in range(3, 1000))]
    return script.Teacher(Colours().eval(), names, 192)


@pytest.fixture
def image():
    """A red square on the left and a green one on the right, of a black image."""
    pixels = np.zeros((192, 384, 3), dtype=np.uint8)
    pixels[64:128, 32:96, 0] = 255
    pixels[64:160, 256:352, 1] = 255
    return pixels


def iou(first, second):
    a, b = (np.asarray(box, dtype=float) for box in (first, second))
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.clip(side, 0, None))
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def test_windows_are_inside_and_cover_the_image():
    boxes = script.windows(100, 150).numpy()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [150.001, 100.001]).all()
    assert [0, 0, 150, 100] in boxes.tolist()
    for size in script.SIZES:
        squares = boxes[np.isclose(boxes[:, 2] - boxes[:, 0], 100 * size, atol=0.01)]
        assert squares[:, 0].min() == 0
        assert squares[:, 2].max() == pytest.approx(150)


def test_sure_windows_have_the_names_of_their_classes(teacher, image):
    found = script.named_windows(teacher, image, score=0.3)
    assert {name for name, _ in found} == {"apple", "leaf"}
    assert max(iou(box, [256, 64, 352, 160]) for name, box in found if name == "leaf") > 0.4
    assert not script.named_windows(teacher, image, score=1.0)


def test_the_active_part_of_an_image_of_one_thing(teacher, image):
    image[:, :192] = 0
    assert iou(script.active_part(teacher, image), [256, 64, 352, 160]) > 0.6


def test_an_image_without_any_activation_is_active_as_a_whole(teacher):
    assert script.active_part(teacher, np.zeros((64, 96, 3), dtype=np.uint8)) == [0, 0, 96, 64]


def test_names_nearest_to_a_distribution():
    class Tower:
        def encode_phrases(self, phrases):
            known = {"apple": [1.0, 0], "leaf": [0, 1.0], "fruit": [0.9, 0.1], "plant": [0.2, 1.0]}
            return torch.tensor([known[phrase] for phrase in phrases])

    names = script.Names(["fruit", "plant"], ["apple", "leaf"], Tower())
    assert names.nearest(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), best=2) == ["fruit", "plant"]


@pytest.mark.parametrize(
    ("phrase", "expected"), [("a red apple", "red apple"), ("The sea", "sea"), ("ant", "ant")]
)
def test_articles(phrase, expected):
    assert script.without_article(phrase) == expected
    assert script.without_article("a") == "a"


def test_the_file_is_odvg(teacher, image, tmp_path, monkeypatch):
    Image.fromarray(image[:, 192:]).save(tmp_path / "leaf.png")
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"image": "leaf.png", "caption": "a leaf"}) + "\n")
    monkeypatch.setattr(script, "load_teacher", lambda *_: teacher)
    arguments = [str(lines), "--image-root", str(tmp_path), "--weights", "unused", "--named"]
    assert script.main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    (record,) = OdvgFile(str(tmp_path / "out.jsonl"), str(tmp_path))
    assert record["caption"] == "a leaf"
    assert [a["phrases"] for a in record["annotations"]] == [["leaf"]]
    assert iou(record["annotations"][0]["bbox"], [64, 64, 160, 160]) > 0.5
    arguments = [*arguments, "--output", str(tmp_path / "o"), "--names", str(lines)]
    assert script.main(arguments) == 2
