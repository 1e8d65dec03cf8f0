import unicodedata

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.data.sample import SkipSample, check_sample, clean_phrase, unique_phrases


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a\t red\n\n apple  ", "a red apple"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x1bc", "abc"),
        ("e\x00\u0301", "\u00e9"),
        ("\ufeffdog\u200b", "dog"),
        ("half \ud800 a pair", "half a pair"),
        ("mojibake \ufffd\ufffd here", "mojibake here"),
        ("\u00a0\u3000 \u2028", ""),
        ("\U0001f469\u200d\U0001f692", "\U0001f469\u200d\U0001f692"),
        ("", ""),
    ],
)
def test_clean_phrase(raw, clean):
    assert clean_phrase(raw) == clean


def test_clean_phrase_of_any_characters_is_clean_and_stable():
    rng = np.random.default_rng(0)
    for length in (0, 1, 5, 50, 3000, 100_000):
        text = "".join(map(chr, rng.integers(1, 0x3000, length)))
        phrase = clean_phrase(text)
        assert clean_phrase(phrase) == phrase
        assert len(phrase) <= 1000
        assert phrase == phrase.strip()
        assert phrase == unicodedata.normalize("NFC", phrase)
        assert "".join(phrase.split()) == "".join(phrase.split(" "))


def test_unique_phrases_keeps_the_first_spelling_in_order():
    assert unique_phrases(["Dog", " ", "a  cat", "dog", "A CAT", "STRASSE", "stra\u00dfe"]) == [
        "Dog",
        "a cat",
        "STRASSE",
    ]


def test_skip_sample_says_what_and_where():
    skip = SkipSample("image-unreadable", "a.jpg: truncated")
    assert (skip.kind, skip.message) == ("image-unreadable", "a.jpg: truncated")
    assert "a.jpg" in str(skip)


def sample(source="detection"):
    instances = Instances((8, 10))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 8.0], [1.0, 2.0, 3.0, 4.0]]))
    instances.gt_classes = torch.tensor([1, 0])
    made = {
        "image": torch.zeros(3, 8, 10, dtype=torch.uint8),
        "height": 80,
        "width": 100,
        "image_id": 1,
        "file_name": "a.jpg",
        "source": source,
        "phrases": ["dog", "cat", "horse"] if source != "caption" else ["dog", "cat"],
        "num_positives": 2,
        "own_phrases_only": False,
        "not_exhaustive": torch.tensor([1]),
    }
    return made if source == "caption" else {**made, "instances": instances}


@pytest.mark.parametrize("source", ["detection", "grounding", "caption"])
def test_a_good_sample_passes(source):
    check_sample(sample(source), max_phrases=3)


def change_instances(**fields):
    def apply(made):
        for name, value in fields.items():
            made["instances"].set(name, value)

    return apply


BOX = [[0.0, 0.0, 1.0, 1.0]]
FAULTS = {
    "missing": lambda s: s.pop("height"),
    "not of the sample": lambda s: s.update(label=3),
    "source is": lambda s: s.update(source="video"),
    "image is not": lambda s: s.update(image=torch.zeros(8, 10, 3)),
    "no pixels": lambda s: s.update(image=torch.zeros(3, 0, 10)),
    "original size": lambda s: s.update(width=0),
    "not a string": lambda s: s.update(phrases=["dog", "cat", 3]),
    "empty or not clean": lambda s: s.update(phrases=["dog", "cat", " horse"]),
    "there twice": lambda s: s.update(phrases=["dog", "cat", "Dog"]),
    "within the phrases": lambda s: s.update(num_positives=4),
    "more phrases": lambda s: s.update(phrases=["dog", "cat", "horse", "cow"]),
    "not int64": lambda s: s.update(not_exhaustive=torch.tensor([1.0])),
    "names a phrase that is not": lambda s: s.update(not_exhaustive=torch.tensor([2])),
    "captions have no boxes": lambda s: s.pop("instances"),
    "size of instances": lambda s: s.update(image=torch.zeros(3, 8, 11)),
    "gt_classes is not int64": change_instances(gt_classes=torch.tensor([0.0, 1.0])),
    "gt_classes is not positive": change_instances(gt_classes=torch.tensor([0, 2])),
    "not finite": change_instances(gt_boxes=Boxes(torch.tensor([*BOX, [0, 0, 1, np.nan]]))),
    "no area": change_instances(gt_boxes=Boxes(torch.tensor([*BOX, [1.0, 1.0, 1.0, 2.0]]))),
    "outside": change_instances(gt_boxes=Boxes(torch.tensor([*BOX, [0.0, 0.0, 10.5, 8.0]]))),
}


@pytest.mark.parametrize("message", FAULTS)
def test_each_fault_is_named(message):
    faulty = sample()
    FAULTS[message](faulty)
    with pytest.raises(ValueError, match=message):
        check_sample(faulty, max_phrases=3)


def test_captions_have_positive_phrases_only():
    for change in ({"num_positives": 1}, {"phrases": [], "num_positives": 0}):
        faulty = {**sample("caption"), **change, "not_exhaustive": torch.zeros(0).long()}
        with pytest.raises(ValueError, match="positive phrases only"):
            check_sample(faulty)
