import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from detclip2.data.io.image import read_image
from detclip2.data.io.video import Video
from detclip2.inference.results import Labels
from detclip2.utils.errors import UserError
from detclip2.visualization.annotate import annotate_image, annotate_video
from tests.helpers.videos import COUNT, RATE, SIZE, cut, draw_frames, join, write


def detect(images, at_least=200):
    """A predictor of white squares, which the frames of `videos` have."""
    if not isinstance(images, np.ndarray):
        return (detect(image, at_least) for image in images)
    ys, xs = (images.min(2) >= at_least).nonzero()
    found = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]] if len(ys) else []
    return Instances(
        images.shape[:2],
        pred_boxes=Boxes(torch.tensor(found, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.full((len(found),), 0.5),
        pred_classes=torch.full((len(found),), 3),
        labels=Labels(["белый"] * len(found)),
    )


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4")


def test_an_image(tmp_path):
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 10:50] = 255
    Image.fromarray(image).save(tmp_path / "x.png")
    target, record = tmp_path / "new" / "x.jpg", tmp_path / "new" / "x.json"
    instances = annotate_image(detect, tmp_path / "x.png", target, record)
    assert instances.labels == ["белый"]
    assert Image.open(target).format == "JPEG"
    drawn = read_image(target)
    assert drawn.shape == image.shape
    assert np.abs(drawn.astype(int) - image).max() > 100
    row = {"label": "белый", "category_id": 3, "bbox": [10, 20, 40, 20], "score": 0.5}
    head = {"file_name": str(tmp_path / "x.png"), "width": 80, "height": 60}
    assert json.loads(record.read_text("utf-8")) == {**head, "detections": [row]}


def test_a_video(clip, tmp_path):
    target, record = tmp_path / "out.mp4", tmp_path / "out.json"
    tally = annotate_video(detect, clip, target, record)
    assert (tally.frames, tally.labels) == (COUNT, {"белый": (COUNT, 0.5)})
    drawn = Video(target)
    assert drawn.rate == RATE
    content = json.loads(record.read_text("utf-8"))
    assert content["file_name"] == str(clip)
    assert content["rate"] == RATE
    assert len(record.read_text("utf-8").splitlines()) == COUNT + 2  # a frame a line
    frames = zip(drawn.frames(), content["frames"], draw_frames(), strict=True)
    for i, (frame, line, shown) in enumerate(frames):
        assert line["frame"] == i
        assert line["time"] == frame.time == pytest.approx(i / RATE)
        [found] = line["detections"]
        np.testing.assert_allclose(found["bbox"], [4 * i, 20, 20, 20], atol=1)
        assert (found["label"], found["category_id"]) == ("белый", 3)
        difference = np.abs(frame.image.astype(int) - shown).max(2)
        x = 4 * i + 10
        assert difference[19:22, x].max() > 50  # the box's upper edge
        assert difference[55:, x].max() < 30  # nothing far below it


def test_a_video_without_detections(clip, tmp_path):
    tally = annotate_video(partial(detect, at_least=256), clip, tmp_path / "o.mp4", tmp_path / "o")
    assert (tally.frames, tally.labels) == (COUNT, {})
    frames = json.loads((tmp_path / "o").read_text())["frames"]
    assert [frame["detections"] for frame in frames] == [[]] * COUNT


def test_frames_of_an_odd_size(tmp_path):
    images = [image[:63, :95] for image in draw_frames()]
    clip = write(tmp_path / "clip.avi", images, codec="mjpeg", pixels="yuvj444p")
    assert next(iter(Video(clip))).shape == (63, 95, 3)
    annotate_video(detect, clip, tmp_path / "out.mp4")
    assert next(iter(Video(tmp_path / "out.mp4"))).shape == (*SIZE, 3)


def test_frames_of_two_sizes(tmp_path):
    small = write(tmp_path / "small.avi", draw_frames(size=(48, 64)), codec="mpeg4")
    clip = join(write(tmp_path / "clip.avi", codec="mpeg4"), small)
    annotate_video(detect, clip, tmp_path / "out.mp4", tmp_path / "out.json")
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    sizes = [(frame["height"], frame["width"]) for frame in frames]
    assert sizes == [SIZE] * COUNT + [(48, 64)] * COUNT
    assert {image.shape[:2] for image in Video(tmp_path / "out.mp4")} == {SIZE}


def test_names_that_are_not_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    video, image = write(tmp_path / f"{name}.mp4"), tmp_path / f"{name}.png"
    Image.new("RGB", (20, 20)).save(image)
    for annotate, source in ((annotate_video, video), (annotate_image, image)):
        record = source.with_suffix(".json")
        annotate(detect, source, tmp_path / "out" / source.name, record)
        assert (tmp_path / "out" / source.name).is_file()
        assert json.loads(record.read_bytes())["file_name"] == str(source)


def test_a_truncated_video_leaves_no_output(tmp_path):
    clip = write(tmp_path / "clip.mp4", noise=True, options={"movflags": "faststart"})
    cut(clip, 0.6)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "out.json").write_text("an older one")
    with pytest.raises(UserError, match=r"clip\.mp4: this video ends in the middle of a frame"):
        annotate_video(detect, clip, folder / "out.mp4", folder / "out.json")
    assert os.listdir(folder) == ["out.json"]
    assert (folder / "out.json").read_text() == "an older one"


def test_a_failing_detector_leaves_no_output(clip, tmp_path):
    def fail(images):
        for number, image in enumerate(images):
            if number == 5:
                raise UserError("no more")
            yield detect(image)

    with pytest.raises(UserError, match="no more"):
        annotate_video(fail, clip, tmp_path / "out" / "out.mp4", tmp_path / "out" / "out.json")
    assert os.listdir(tmp_path / "out") == []


def test_files_that_cannot_be_written(clip, tmp_path):
    (tmp_path / "file").touch()
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    below = tmp_path / "file" / "x"
    for annotate, source in [(annotate_video, clip), (annotate_image, tmp_path / "x.png")]:
        for targets in [(below, None), (tmp_path / "out.mp4", below)]:
            with pytest.raises(UserError, match="cannot be written"):
                annotate(detect, source, *targets)
