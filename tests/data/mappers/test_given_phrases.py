"""``phrases`` of records in every form that json can hold: read, or counted as malformed."""

import numpy as np
import pytest
from detectron2.structures import BoxMode

from detclip2.data.datasets.captions import CaptionJsonl
from detclip2.data.mappers import CaptionMapper, GroundingMapper, draw_sample
from detclip2.data.mappers.phrase_grounding import mentions_of
from detclip2.data.text.clean import read_phrases
from detclip2.utils.errors import UserError

IMAGE = np.zeros((8, 8, 3), np.uint8)
READ = [("castle", ["castle"]), (["castle", "dog"], ["castle", "dog"]), (("dog",), ["dog"])]
MALFORMED = [
    7,
    0,
    1.5,
    True,
    False,
    {"text": "castle"},
    [{"text": "castle"}],
    ["dog", 7],
    [["dog"]],
]
ids = [repr(phrases) for phrases in MALFORMED]


def rng():
    return np.random.default_rng(0)


def grounded(phrases):
    box = {"bbox": [1, 1, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "phrases": phrases}
    return {"image": IMAGE, "caption": "a castle", "annotations": [box]}


@pytest.mark.parametrize(("phrases", "read"), READ)
def test_phrases_that_are_read(phrases, read):
    assert read_phrases(phrases) == read
    record = {"image": IMAGE, "caption": "a castle", "phrases": phrases}
    assert CaptionMapper()(record, rng())["phrases"] == ["a castle", *read]
    assert GroundingMapper()(grounded(phrases), rng())["phrases"] == read
    assert [mention.phrase for mention in mentions_of(grounded(phrases))] == read


def test_null_is_as_no_phrases():
    record = {"image": IMAGE, "caption": "a red castle"}
    assert CaptionMapper()({**record, "phrases": None}, rng())["phrases"] == [
        "a red castle",
        "red castle",
    ]
    assert mentions_of(grounded(None)) == []
    mapper = GroundingMapper()
    assert draw_sample([grounded(None)], 0, mapper, rng()) is None
    assert mapper.counter.counts() == {"caption-without-phrase": 1}


@pytest.mark.parametrize("phrases", MALFORMED, ids=ids)
def test_phrases_that_are_counted_as_malformed(phrases):
    pair = {"image": IMAGE, "caption": "a castle", "phrases": phrases}
    for mapper, record in ((CaptionMapper(), pair), (GroundingMapper(), grounded(phrases))):
        assert draw_sample([record], 0, mapper, rng()) is None
        assert mapper.counter.counts() == {"record-malformed": 1}
    with pytest.raises(UserError, match="phrase"):
        mentions_of(grounded(phrases))


def test_a_line_that_is_nested_too_deep_is_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("[" * 200_000)
    mapper = CaptionMapper()
    assert draw_sample(CaptionJsonl(str(path), ""), 0, mapper, rng()) is None
    assert mapper.counter.counts() == {"record-malformed": 1}
