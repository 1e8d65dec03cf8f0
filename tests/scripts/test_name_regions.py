"""Regions named by a classifier whose features are the colours of the image."""

import json
from typing import ClassVar

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


def part(teacher, image, classes):
    return script.active_part(teacher, teacher.features(image), image, torch.tensor(classes))


def test_the_part_of_an_image_where_a_class_is_active(teacher, image):
    only_leaf, only_apple = [0.0, 1.0, *[0.0] * 998], [1.0, *[0.0] * 999]
    assert iou(part(teacher, image, only_leaf), [256, 64, 352, 160]) > 0.6
    assert iou(part(teacher, image, only_apple), [32, 64, 96, 128]) > 0.4


@pytest.mark.parametrize("level", [0, 255])
def test_an_image_without_any_activation_is_active_as_a_whole(teacher, level):
    """Of white, all three colours are active, and the class of none of them is."""
    image = np.full((64, 96, 3), level, dtype=np.uint8)
    assert part(teacher, image, [*[0.0] * 999, 1.0]) == [0, 0, 96, 64]


class Tower:
    """Vectors of a few words, of any length."""

    known: ClassVar = {
        "apple": [3.0, 0],
        "leaf": [0, 2.0],
        "fruit": [0.9, 0.1],
        "plant": [0.2, 1.0],
    }

    def encode_phrases(self, phrases):
        return torch.tensor([self.known.get(phrase, [0.1, -1.0]) for phrase in phrases])


@pytest.fixture
def words(teacher):
    return script.Words(teacher.names, Tower())


def test_similarity_of_distributions_with_phrases(words):
    probabilities = torch.zeros(2, 1000)
    probabilities[0, :2] = torch.tensor([0.9, 0.1])
    probabilities[1, :2] = torch.tensor([0.2, 0.8])
    found = words.similarity(probabilities, words.vectors(["fruit", "plant"]))
    expected = [0.9 * 0.9 + 0.1 * 0.1, 0.2 * 0.2 + 0.8 * 1.0]
    lengths = [np.hypot(0.9, 0.1), np.hypot(0.2, 1.0)]
    np.testing.assert_allclose(found, np.divide(expected, lengths), rtol=1e-6)


def test_classes_like_a_phrase_are_those_of_its_kind(words):
    weights = words.classes_like(words.vectors(["fruit", "plant"]))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert weights.argmax(dim=1).tolist() == [0, 1]
    ratio = weights[0, 0] / weights[0, 1]  # of similarities 0.9 and 0.1, by the length
    assert ratio.log().item() == pytest.approx(0.8 / np.hypot(0.9, 0.1) / 0.1, rel=1e-5)


def test_phrases_of_the_captions_are_located_if_their_classes_are_seen(
    teacher, image, tmp_path, words
):
    Image.fromarray(image).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "caption": ["The plant.", "A fruit beside the ship."]}] * 2
    lines[1] = {"image": "a.png", "caption": "Nothing of it."}
    (line,) = script.name_regions(lines, tmp_path, teacher, 0.2, words=words)
    assert line["grounding"]["caption"] == "The plant. A fruit beside the ship."
    found = {region["phrase"]: region["bbox"] for region in line["grounding"]["regions"]}
    assert found.keys() == {"plant", "fruit"}
    assert iou(found["plant"], [256, 64, 352, 160]) > 0.6
    assert iou(found["fruit"], [32, 64, 96, 128]) > 0.4
    (line,) = script.name_regions(lines[1:], tmp_path, teacher, 0.2, words=words, names=["plant"])
    assert [region["phrase"] for region in line["grounding"]["regions"]] == ["plant"]
    assert not list(script.name_regions(lines, tmp_path, teacher, 1.1, words=words))


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
