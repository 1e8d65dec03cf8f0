"""PhraseCut's files, and the masks that its evaluation draws."""

import numpy as np
import pytest

from detclip2.data.datasets.phrasecut import PhraseCut, drawn
from detclip2.data.mappers import GroundingMapper
from detclip2.data.sample import SkipSample, check_sample
from detclip2.utils.errors import UserError
from tests.helpers.phrasecut import SQUARE, TASKS, write


def slow_square(left, top, right, bottom, height, width):
    """Corners and edges belong to it."""
    mask = np.zeros((height, width), bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_records_train_and_have_the_masks_of_the_evaluation(tmp_path):
    records = PhraseCut(write(tmp_path))
    assert len(records) == 2
    record = records[0]
    assert record["caption"] == "walking people"
    assert [a["phrases"] for a in record["annotations"]] == [["walking people"]] * 2
    assert record["annotations"][0]["tokens_positive"] == [[0, 14]]
    sample = GroundingMapper(keep=["phrase_spans", "gt_masks"])(record)
    check_sample(sample)
    assert sample["phrase_spans"] == [[[0, 14]]]
    masks = sample["instances"].gt_masks.tensor.numpy()
    np.testing.assert_array_equal(masks[0], slow_square(10, 20, 30, 40, 60, 80))
    assert masks[1, 40, 60]
    assert masks[1, 5, 50]
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [10, 20, 31, 41]


def test_masks_are_drawn_as_in_the_evaluation():
    """A point is no polygon, two points are a line, and coordinates are cut."""
    mask = drawn([[[5, 5]], [[1.9, 1.2], [4.9, 1]], *SQUARE], (50, 70))
    expected = slow_square(10, 20, 30, 40, 50, 70) | slow_square(1, 1, 4, 1, 50, 70)
    np.testing.assert_array_equal(mask, expected)
    assert not drawn([], (5, 5)).any()
    assert drawn([[[-(10**6), -(10**6)], [10**6, -(10**6)], [0, 10**6]]], (5, 5)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"phrase": None},
        {"phrase": " "},
        {"image_id": 9},
        {"instance_boxes": [[1, 2, 3]]},
        {"instance_boxes": []},
        {"instance_boxes": [[1, 2, 3, 4], [1, 2, 3, 4]]},
        {"Polygons": None},
        {"Polygons": [[[1, 2, 3]]]},
        {"Polygons": [[[["a", 1], [2, 3]]]]},
        {"Polygons": [[[[float("nan"), 1], [2, 3]]]]},
        {"Polygons": [[[[10**400, 1], [2, 3]]]]},
    ],
)
def test_a_phrase_that_is_not_in_the_format_is_skipped(tmp_path, change):
    records = PhraseCut(write(tmp_path, [{**TASKS[1], **change}, TASKS[0]]))
    with pytest.raises(SkipSample, match=r"refer_test.json, phrase 0") as info:
        records[0]
    assert info.value.kind == "record-malformed"
    assert records[1]["image_id"] == 7


def test_files_that_are_not_in_the_format(tmp_path):
    with pytest.raises(UserError, match=r"refer_val\.json"):
        PhraseCut(write(tmp_path), split="val")
    with pytest.raises(UserError, match="no phrase"):
        PhraseCut(write(tmp_path, []))
    with pytest.raises(UserError, match="expected a list of objects"):
        PhraseCut(write(tmp_path, {"tasks": []}))
    with pytest.raises(UserError, match=r"image_data_split\.json.*not an image"):
        PhraseCut(write(tmp_path, sizes=[{"image_id": 7, "width": 0, "height": 5}]))
    outside = [{**TASKS[0], "image_id": "../7"}]
    sizes = [{"image_id": "../7", "width": 80, "height": 60}]
    with pytest.raises(SkipSample, match="leads out of the folder"):
        PhraseCut(write(tmp_path, outside, sizes))[0]
