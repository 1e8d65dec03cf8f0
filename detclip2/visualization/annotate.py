"""Annotation of image and video files: detections are drawn in, and written as json."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from detectron2.structures import Instances
from PIL import Image
from rich.console import Console
from rich.progress import track

from detclip2.data.io.image import read_image
from detclip2.data.io.live_video import LiveVideo
from detclip2.data.io.video import Frame, Video, write_video
from detclip2.inference.results import to_coco
from detclip2.inference.results_file import ResultsFile
from detclip2.inference.tracking import Tracker
from detclip2.utils.errors import UserError
from detclip2.utils.files import json_bytes, whole_file, write_whole
from detclip2.visualization.detections import draw_instances

StrPath: TypeAlias = str | os.PathLike[str]
Detect: TypeAlias = Callable[[Any], Any]
"""A predictor with a vocabulary, or ``functools.partial`` of one with its own settings."""


@dataclass
class Tally:
    """A summary of the detections in a video."""

    frames: int = 0
    """Number of frames."""
    labels: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Label -> number of frames in which it was detected, and its best score."""

    def add(self, instances: Instances) -> None:
        """Count one frame."""
        self.frames += 1
        best: dict[str, float] = {}
        for label, score in zip(instances.labels, instances.scores.tolist(), strict=True):
            best[label] = max(score, best.get(label, 0.0))
        for label, score in best.items():
            frames, before = self.labels.get(label, (0, 0.0))
            self.labels[label] = frames + 1, max(score, before)


def annotate_image(
    detect: Detect,
    source: StrPath,
    target: StrPath,
    record: StrPath | None = None,
    polygons: bool = False,
    pixels: np.ndarray | None = None,
) -> Instances:
    """Detect in an image and write the image with the detections.

    Args:
        detect: the predictor.
        source: the image file.
        target: the file to write, .jpg or .png.
        record: a json file to write too: ``file_name``, ``width``, ``height`` and ``detections``,
            each with ``label``, ``score``, ``bbox`` XYWH px and ``category_id``, the position in
            the vocabulary from 0. Of detections with masks also ``segmentation`` and ``area``.
        polygons: see `to_coco`.
        pixels: (H, W, 3) uint8 RGB of an image that is read already; `source` is then its name.

    Returns:
        The detections.

    Raises:
        UserError: the image cannot be read, or a file cannot be written.
    """
    image = read_image(source) if pixels is None else pixels
    instances = detect(image)
    drawn = Image.fromarray(draw_instances(image, instances))
    image_format = "JPEG" if Path(target).suffix.lower() in (".jpg", ".jpeg") else "PNG"
    try:
        write_whole(Path(target), lambda file: drawn.save(file, image_format, quality=95))
    except OSError as error:
        raise UserError(f"{target}: this image cannot be written: {error}") from None
    if record is not None:
        height, width = image.shape[:2]
        head = {"file_name": os.fspath(source), "width": width, "height": height}
        text = json_bytes({**head, "detections": _rows(instances, polygons)})
        try:
            write_whole(Path(record), lambda file: file.write(text))
        except OSError as error:
            raise UserError(f"{record}: this file cannot be written: {error}") from None
    return instances


def annotate_video(
    detect: Detect,
    source: "StrPath | LiveVideo",
    target: StrPath,
    record: StrPath | None = None,
    results: ResultsFile | None = None,
    polygons: bool = False,
    track: Callable[[float], Tracker] | None = None,
) -> Tally:
    """Detect in every frame of a video and write it with the detections, frame by frame.

    Args:
        detect: the predictor.
        source: the video file, or a video without end.
        target: the .mp4 file to write; it has no sound.
        record: a json file to write too: ``file_name``, ``rate`` and ``frames``, one a line, each
            with ``frame`` (from 0), ``time`` (seconds), ``width``, ``height`` and ``detections``,
            see `annotate_image`.
        results: collects the detections of all frames too.
        polygons: see `to_coco`.
        track: makes a `Tracker` for a number of frames a second; its ids are drawn and written
            (``track``).

    Returns:
        A summary of the detections.

    Raises:
        UserError: the video cannot be read to its end, or a file cannot be written. Then no file is
            written.
    """
    from av.error import FFmpegError  # images do not need it

    video = source if isinstance(source, LiveVideo) else Video(source)
    tally = Tally()
    try:
        with ExitStack() as files:
            annotated = files.enter_context(whole_file(Path(target)))
            lines = files.enter_context(whole_file(Path(record))) if record is not None else None
            found = _detect_frames(detect, video)
            if track is not None:
                found = _track_frames(found, track, video)
            if lines is not None:
                found = _write_frames(found, lines, video, polygons)
            if results is not None:
                found = _add_frames(found, results, video)
            write_video(annotated, _draw_frames(found, tally), video.rate)
    except (OSError, FFmpegError) as error:  # e.g. of a full disk
        raise UserError(f"{target}: this video cannot be written: {error}") from None
    return tally


Found: TypeAlias = tuple[Frame, Instances]


def _detect_frames(detect: Detect, video: Video | LiveVideo) -> Iterator[Found]:
    """The frames with their detections, with a progress bar."""
    shown, seen = itertools.tee(video.frames())  # at most one batch apart
    results = detect(frame.image for frame in seen)
    pairs = zip(shown, results, strict=True)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from track(
        pairs, Path(video.path).name, video.count, console=console, transient=True, disable=hidden
    )


def _track_frames(
    found: Iterable[Found], track: Callable[[float], Tracker], video: Video | LiveVideo
) -> Iterator[Found]:
    """The same with ``track_ids``; the rate of a live video is known from its first frame on."""
    tracker = None
    for frame, instances in found:
        tracker = tracker or track(float(video.rate))
        yield frame, tracker(instances)


def _draw_frames(found: Iterable[Found], tally: Tally) -> Iterator[Frame]:
    for frame, instances in found:
        tally.add(instances)
        yield frame._replace(image=draw_instances(frame.image, instances))


def _write_frames(
    found: Iterable[Found], file: IO[bytes], video: Video | LiveVideo, polygons: bool
) -> Iterator[Found]:
    """The same, after writing the line of each frame."""
    head = {"file_name": str(video.path), "rate": float(video.rate)}
    file.write(json_bytes(head)[:-1] + b', "frames": [')
    for number, (frame, instances) in enumerate(found):
        height, width = frame.image.shape[:2]
        head = {"frame": number, "time": frame.time, "width": width, "height": height}
        file.write(b",\n" if number else b"\n")
        file.write(json_bytes({**head, "detections": _rows(instances, polygons)}))
        yield frame, instances
    file.write(b"\n]}\n")


def _add_frames(
    found: Iterable[Found], results: ResultsFile, video: Video | LiveVideo
) -> Iterator[Found]:
    for number, (frame, instances) in enumerate(found):
        results.add(video.path, instances, frame=number)
        yield frame, instances


def _rows(instances: Instances, polygons: bool) -> list[dict[str, Any]]:
    rows = []
    entries = to_coco(instances, image_id=0, polygons=polygons)
    for label, row in zip(instances.labels, entries, strict=True):
        del row["image_id"]  # the json names the file once
        rows.append({"label": label, **row})
    return rows
