import math
from pathlib import Path

import pytest

from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.thresholds import MEANINGS, DetectionThresholds
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
            DetectionThresholds(**{name: value})


def test_missing_thresholds_fall_back_to_the_next_level():
    first = DetectionThresholds(score_threshold=0.0, class_agnostic_nms=False)
    second = DetectionThresholds(score_threshold=0.5, nms_threshold=0.4, class_agnostic_nms=True)
    assert first.or_else(second) == DetectionThresholds(0.0, 0.4, False, None)
    assert second.or_else(first) == second


def test_a_call_does_not_change_the_models_thresholds():
    postprocess = PostProcess(score_threshold=0.2, nms_threshold=0.6)
    resolved = postprocess.resolved(DetectionThresholds(nms_threshold=0.3, max_detections=5))
    assert resolved == DetectionThresholds(0.2, 0.3, False, 5)
    assert postprocess.resolved(None) == DetectionThresholds(0.2, 0.6, False, 300)


def test_a_models_thresholds_are_checked_too():
    with pytest.raises(UserError, match=r"nms_threshold is 1\.5"):
        PostProcess(nms_threshold=1.5)


def test_the_documented_thresholds_equal_the_models():
    assert list(MEANINGS) == list(vars(DetectionThresholds()))
    assert None not in vars(PostProcess().thresholds).values()
    page = " ".join((Path(__file__).parents[2] / "docs" / "inference.md").read_text().split())
    for name, meaning in MEANINGS.items():
        assert f"| `{name}` | {meaning} |" in page
