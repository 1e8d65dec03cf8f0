import unicodedata

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from detclip2.data.mappers import Mapper
from detclip2.data.sample import KEYS, REQUIRED_KEYS, SUPERVISIONS, SkipSample, check_sample
from detclip2.data.text.clean import clean_phrase, unique_phrases


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


def test_clean_phrase_is_idempotent_for_any_characters():
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


def test_skip_sample_reports_the_kind_and_the_file():
    skip = SkipSample("image-unreadable", "a.jpg: truncated")
    assert (skip.kind, skip.message) == ("image-unreadable", "a.jpg: truncated")
    assert "a.jpg" in str(skip)


def sample(supervision="detection"):
    instances = Instances((8, 10))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 8.0], [1.0, 2.0, 3.0, 4.0]]))
    instances.gt_classes = torch.tensor([1, 0])
    made = {
        "image": torch.zeros(3, 8, 10, dtype=torch.uint8),
        "height": 80,
        "width": 100,
        "image_id": 1,
        "file_name": "a.jpg",
        "supervision": supervision,
        "phrases": ["dog", "cat", "horse"] if supervision != "caption" else ["dog", "cat"],
        "num_positives": 2,
        "own_phrases_only": False,
        "not_exhaustive": torch.tensor([1]),
    }
    return made if supervision == "caption" else {**made, "instances": instances}


@pytest.mark.parametrize("supervision", ["detection", "grounding", "caption"])
def test_a_good_sample_passes(supervision):
    check_sample(sample(supervision), max_phrases=3)


def change_instances(**fields):
    def apply(made):
        for name, value in fields.items():
            made["instances"].set(name, value)

    return apply


BOX = [[0.0, 0.0, 1.0, 1.0]]
FAULTS = {
    "missing": lambda s: s.pop("height"),
    "not of the sample": lambda s: s.update(label=3),
    "supervision is": lambda s: s.update(supervision="video"),
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
    "key 'instances' is missing": lambda s: s.pop("instances"),
    "'phrase_spans' is not of the supervision": lambda s: s.update(phrase_spans=[[], []]),
    "phrases is a tuple": lambda s: s.update(phrases=("dog", "cat", "horse")),
    "caption is a bytes": lambda s: s.update(caption=b"a dog"),
    "question is ''": lambda s: s.update(question=""),
    "phrase_order is no permutation": lambda s: s.update(phrase_order=torch.tensor([0, 1, 1])),
    "answers has 'red'": lambda s: s.update(answers={"red": "often"}),
    "target_text is a int": lambda s: s.update(target_text=3),
    r"gt_masks is not \(N, H, W\)": change_instances(gt_masks=BitMasks(torch.zeros(2, 10, 8))),
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


def test_captions_have_no_boxes():
    with pytest.raises(ValueError, match="'instances' is not of the supervision 'caption'"):
        check_sample({**sample("caption"), "instances": sample()["instances"]})


def test_the_table_of_keys():
    assert len(REQUIRED_KEYS) == 10
    for key in KEYS.values():
        assert set(key.required) <= set(key.allowed) <= set(SUPERVISIONS)
        assert key.meaning


def test_a_mapper_declares_a_supervision_of_its_own():
    made = {**sample("caption"), "supervision": "presence"}
    with pytest.raises(ValueError, match="supervision is 'presence'"):
        check_sample(made)

    class PresenceMapper(Mapper):
        supervision = "presence"

    check_sample(made)
    check_sample({**made, "caption": "a dog", "instances": sample()["instances"]})
    with pytest.raises(ValueError, match="not of the sample format"):
        check_sample({**made, "label": 3})
    with pytest.raises(ValueError, match="supervision is 'precense'"):
        check_sample({**made, "supervision": "precense"})


EXTRA = {
    "detection": {"caption": "a dog", "question": "what?", "answers": {"dog": 1}},
    "grounding": {
        "caption": "a dog and a cat",
        "phrase_spans": [[[2, 5]], []],
        "other_captions": ["the sea"],
    },
    "caption": {"caption": "dog, dog", "phrase_spans": [[[0, 3], [5, 8]], []]},
    "vqa": {"question": "what is it?", "answers": {"a dog": 0.9, "dog": 1}},
    "captioning": {"target_text": "a dog"},
}


@pytest.mark.parametrize("supervision", EXTRA)
def test_optional_keys_of_each_supervision(supervision):
    made = {**sample("caption"), "supervision": supervision, **EXTRA[supervision]}
    if supervision in ("detection", "grounding"):
        made = {**sample(supervision), **EXTRA[supervision]}
        made["instances"].gt_masks = BitMasks(torch.zeros(2, 8, 10))
    check_sample(made)


@pytest.mark.parametrize(
    ("supervision", "key"), [("vqa", "answers"), ("captioning", "target_text")]
)
def test_required_keys_of_each_supervision(supervision, key):
    made = {**sample("caption"), "supervision": supervision, **EXTRA[supervision]}
    del made[key]
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        check_sample(made)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[[0, 2]]], "one entry for each positive"),
        ([[[0, 2]], [[3, 3]]], "inside the caption"),
        ([[[0, 2]], [[3, 6]]], "inside the caption"),
        ([[[-1, 2]], []], "inside the caption"),
    ],
)
def test_spans_belong_to_positives_and_are_inside_the_caption(spans, message):
    made = {**sample("grounding"), "caption": "a dog", "phrase_spans": spans}
    with pytest.raises(ValueError, match=message):
        check_sample(made)
    del made["caption"]
    with pytest.raises(ValueError, match="without a caption"):
        check_sample(made)
