"""Tracks: one id for one object, as long as it is there."""

import builtins

import pytest
import torch
from detectron2.structures import Boxes, Instances

from detclip2.inference.results import Labels
from detclip2.utils.errors import UserError

pytest.importorskip("trackers", reason="the extra track is not installed")
from detclip2.inference.tracking import Tracker


def frame(*found):
    """Detections: left edge, score, class."""
    boxes = torch.tensor([[x, 10.0, x + 40, 60] for x, _, _ in found]).reshape(-1, 4)
    return Instances(
        (100, 400),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor([score for _, score, _ in found]),
        pred_classes=torch.tensor([c for *_, c in found], dtype=torch.int64),
        labels=Labels(str(c) for *_, c in found),
    )


def test_ids_stay_with_moving_objects():
    tracker = Tracker(0.4, 25)
    ids = []
    for i in range(30):
        found = tracker(frame((5.0 + 3 * i, 0.5, 0), (300.0 - 3 * i, 0.6, 1)))
        assert found.labels == ["0", "1"], "also where they cross, and in their order"
        ids.append(found.track_ids.tolist())
    assert ids[0] == [-1, -1]
    assert ids[1:] == [[0, 1]] * 29


def test_low_scores_continue_a_track_and_begin_none():
    tracker = Tracker(0.4, 25)
    scores = [0.5, 0.5, 0.25, 0.22, 0.5]
    ids = [tracker(frame((5.0, s, 0), (200.0, 0.3, 0))).track_ids.tolist() for s in scores]
    assert ids == [[-1], [0], [0], [0], [0]]
    assert tracker.low_threshold == pytest.approx(0.2)


def test_a_lost_object_keeps_its_id_for_a_second():
    def seen_after(missed):
        tracker = Tracker(0.4, 10)
        for _ in range(3):
            found = tracker(frame((5.0, 0.5, 0)))
        first = found.track_ids.item()
        for _ in range(missed):
            assert len(tracker(frame())) == 0
        for _ in range(2):
            found = tracker(frame((5.0, 0.5, 0)))
        return found.track_ids.item() == first

    assert seen_after(5)
    assert not seen_after(15)


def test_without_the_package_it_is_said(monkeypatch):
    really = builtins.__import__

    def without(name, *more):
        if name == "trackers":
            raise ModuleNotFoundError(name=name)
        return really(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"detclip2\[track\]"):
        Tracker(0.4, 25)
