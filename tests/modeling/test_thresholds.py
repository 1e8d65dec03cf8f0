import math
from pathlib import Path

import pytest

from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.thresholds import MEANINGS, Selection
from detclip2.utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("score_threshold", [-0.1, 1.1, math.nan]),
        ("nms_threshold", [-0.1, 1.1, math.nan]),
        ("max_detections", [0, -1]),
    ],
)
def test_out_of_range(name, values):
    for value in values:
        with pytest.raises(UserError, match=f"{name} is {value}"):
            Selection(**{name: value})


def test_what_is_not_said_is_left_to_the_next():
    first = Selection(score_threshold=0.0, class_agnostic_nms=False)
    second = Selection(score_threshold=0.5, nms_threshold=0.4, class_agnostic_nms=True)
    assert first.or_else(second) == Selection(0.0, 0.4, False, None)
    assert second.or_else(first) == second


def test_a_model_gets_a_copy():
    postprocess = PostProcess(score_threshold=0.2, nms_threshold=0.6)
    changed = Selection(nms_threshold=0.3, max_detections=5).applied(postprocess)
    assert Selection.of(changed) == Selection(0.2, 0.3, False, 5)
    assert Selection.of(postprocess) == Selection(0.2, 0.6, False, 300)


def test_the_settings_are_those_of_the_model_and_the_page_says_the_same():
    assert list(MEANINGS) == list(vars(Selection()))
    assert set(MEANINGS) <= set(vars(PostProcess()))
    page = " ".join((Path(__file__).parents[2] / "docs" / "inference.md").read_text().split())
    for name, meaning in MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in page
