"""Tracks: ids of objects that stay with them through the frames of a video."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from detclip2.utils.errors import UserError

LOW = 0.5
"""Detections down to this share of the score threshold continue a track, and begin none."""


class Tracker:
    """Gives the detections of a video ids, frame by frame, with ByteTrack (Zhang et al., 2022).

    ByteTrack's two stages need scores below the threshold too: those from `low_threshold` continue
    the track of an object that is hard to see, and are dropped otherwise. Each name has its own
    tracks, so that an object cannot take over the id of another one with another name at its place.

    Args:
        score_threshold: score from which a detection begins a track; in (0, 1].
        rate: frames a second; a track that is lost for a second ends.

    Raises:
        UserError: the package trackers, an optional dependency, is not installed.
    """

    def __init__(self, score_threshold: float, rate: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ModuleNotFoundError:
            raise UserError(
                "tracks need the package trackers: pip install 'detclip2[track]'"
            ) from None

        def new() -> Any:
            return ByteTrackTracker(
                lost_track_buffer=30,  # of 30 frames a second, whatever the video's rate is
                frame_rate=rate,
                track_activation_threshold=score_threshold,
                high_conf_det_threshold=score_threshold,
                minimum_consecutive_frames=1,
            )

        self.low_threshold = LOW * score_threshold
        self._score_threshold = score_threshold
        self._trackers: defaultdict[int, Any] = defaultdict(new)
        self._ids: dict[tuple[int, int], int] = {}

    def __call__(self, instances: Instances) -> Instances:
        """The detections of the next frame that are shown, with ``track_ids``.

        Args:
            instances: with scores from `low_threshold`; ``pred_boxes``, ``scores``,
                ``pred_classes``.

        Returns:
            Those from the score threshold or of a track, in the same order, with ``track_ids`` (N,)
            int64: from 0, or -1 for what is not seen in two frames yet.
        """
        import supervision as sv

        ids = np.full(len(instances), -1, dtype=np.int64)
        boxes = instances.pred_boxes.tensor.numpy()
        scores, classes = instances.scores.numpy(), instances.pred_classes.numpy()
        for name in sorted({*self._trackers, *classes.tolist()}):  # a lost track ages without boxes
            tracker = self._trackers[name]
            of_name = (classes == name).nonzero()[0]
            detections = sv.Detections(
                boxes[of_name], confidence=scores[of_name], data={"index": of_name}
            )
            found = tracker.update(detections)
            if len(found) == 0:
                continue
            for index, own in zip(found.data["index"], found.tracker_id, strict=True):
                if own >= 0:
                    ids[index] = self._ids.setdefault((name, int(own)), len(self._ids))
        instances.track_ids = torch.from_numpy(ids)
        return instances[(instances.scores >= self._score_threshold) | (instances.track_ids >= 0)]
