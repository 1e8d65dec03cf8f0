import numpy as np
import pytest
import torch
from detectron2.data.transforms import Resize
from detectron2.structures import BoxMode
from PIL import Image

from detclip2.data.mappers.phrase_grounding import (
    Mention,
    MentionMapper,
    mentions_of,
    vocabulary_of,
)
from detclip2.utils.errors import UserError


def record(*annotations, **more):
    return {
        "image_id": 7,
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "phrases": phrases}
            for box, phrases in annotations
        ],
        **more,
    }


def test_a_grounding_record_gives_one_mention_a_phrase():
    assert mentions_of(
        record(
            ([10, 20, 5, 6], ["red apple", "fruit"]),
            ([1, 2, 3, 4], []),
            ([0, 0, 9, 9], [" fruit ", "", "cat"]),
        )
    ) == [
        Mention("red apple", ((10, 20, 15, 26),)),
        Mention("fruit", ((10, 20, 15, 26), (0, 0, 9, 9))),
        Mention("cat", ((0, 0, 9, 9),)),
    ]
    assert mentions_of({"image_id": 1}) == []


def test_mentions_of_a_record_have_priority():
    mentions = [Mention("man", ((1, 2, 3, 4),)), Mention("man", ((5, 6, 7, 8),), ("people",))]
    both = record(([10, 20, 5, 6], ["cat"]), mentions=mentions)
    assert mentions_of(both) == mentions
    assert vocabulary_of(mentions) == ["man"]


@pytest.mark.parametrize("box", [None, [1, 2, 3], [0, 0, float("nan"), 5], [0, 0, 5, float("inf")]])
def test_an_invalid_box_is_refused(box):
    with pytest.raises(UserError, match="image 7: box"):
        mentions_of(record((box, ["cat"])))


def test_a_sample_has_the_phrases_as_its_vocabulary(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "7.png")
    annotated = (([1, 1, 5, 5], ["Cat"]), ([2, 2, 5, 5], ["cat", "dog"]))
    for source in ({"file_name": str(tmp_path / "7.png")}, {"image": pixels}):
        sample = MentionMapper([])(record(*annotated, sentence_id=3, **source))
        assert torch.equal(sample["image"], torch.from_numpy(pixels).permute(2, 0, 1))
        assert sample["vocabulary"] == ["Cat", "dog"], "once, whatever its case"
        assert (sample["image_id"], sample["sentence_id"]) == (7, 3)
        smaller = MentionMapper([Resize((10, 15))])(record(*annotated, **source))
        assert smaller["image"].shape == (3, 10, 15)
        assert (smaller["height"], smaller["width"]) == (20, 30)
        assert smaller["sentence_id"] == 0


def test_an_image_whose_size_differs_from_the_annotations(tmp_path):
    path = tmp_path / "7.png"
    with pytest.raises(UserError, match=r"7\.png"):
        MentionMapper([])(record(file_name=str(path)))
    Image.new("RGB", (30, 20)).save(path)
    with pytest.raises(UserError, match=r"is 30 x 20 pixels, but its annotations are of 31 x 20"):
        MentionMapper([])(record(file_name=str(path), height=20, width=31))
