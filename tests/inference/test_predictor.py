"""The predictor: every kind of image, order, threads, settings of a call."""

import math
import threading
import weakref
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from PIL import Image

from detclip2.data.io.video import Video
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.modeling.thresholds import DetectionThresholds
from detclip2.utils.errors import UserError
from tests.helpers.color_model import COLORS, draw_image, equal
from tests.helpers.videos import write


def test_finds_named_objects_at_their_places(colors):
    image = draw_image(red=(10, 20, 30, 50), blue=(40, 5, 70, 25))
    colors.set_vocabulary(["blue", "lime", "red"])
    instances = colors(image)
    assert instances.image_size == (60, 80)
    assert instances.labels == ["blue", "red"]
    assert instances.pred_classes.tolist() == [0, 2]
    np.testing.assert_allclose(
        instances.pred_boxes.tensor, [[40, 5, 70, 25], [10, 20, 30, 50]], atol=1
    )
    assert instances.scores.tolist() == pytest.approx([1, 1 / 3])


def test_every_kind_of_image(colors, tmp_path):
    image = draw_image(red=(10, 20, 30, 50))
    Image.fromarray(image).save(tmp_path / "x.png")
    colors.set_vocabulary("red, lime")
    expected = colors(image)
    for source in [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        (tmp_path / "x.png").read_bytes(),
        Image.fromarray(image),
        torch.from_numpy(image).permute(2, 0, 1),
    ]:
        instances = colors(source)
        assert isinstance(instances, Instances)
        assert equal(instances, expected)


def test_boxes_refer_to_the_upright_image(colors, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored image is turned a quarter to the left
    upright = draw_image(height=80, width=60, red=(5, 10, 25, 30))
    Image.fromarray(np.rot90(upright)).save(tmp_path / "x.png", exif=exif)
    colors.set_vocabulary(["red"])
    instances = colors(tmp_path / "x.png")
    assert instances.image_size == (80, 60)
    np.testing.assert_allclose(instances.pred_boxes.tensor, [[5, 10, 25, 30]], atol=1)


def test_lists_of_mixed_sizes_keep_their_order(colors):
    images = [
        draw_image(60, 80, red=(0, 0, 20, 20)),
        draw_image(80, 60, blue=(0, 0, 20, 20)),
        draw_image(60, 80),
        draw_image(60, 80, lime=(0, 0, 20, 20), red=(30, 30, 50, 50)),
        draw_image(120, 160, blue=(0, 0, 20, 20)),
    ]
    colors.set_vocabulary(["red", "lime", "blue"])
    results = colors(images)
    assert [r.labels for r in results] == [["red"], ["blue"], [], ["red", "lime"], ["blue"]]
    assert [r.image_size for r in results] == [image.shape[:2] for image in images]
    wide, high = (120, 160), (160, 120)
    assert colors.model.batches == [[wide, high, wide, wide], [wide]]  # four at a time
    assert [r.labels for r in colors(tuple(images))] == [r.labels for r in results]
    assert colors([]) == []


def test_an_iterable_is_read_lazily(colors):
    read = 0

    def frames():
        nonlocal read
        while True:
            read += 1
            yield draw_image(red=(0, 0, 20, 20))

    colors.set_vocabulary(["red"])
    results = colors(frames())
    assert read == 0
    for _ in range(5):
        assert next(results).labels == ["red"]
    assert read == 8


def test_processed_images_are_released(colors):
    alive = []

    def frames():
        for _ in range(20):
            image = draw_image(red=(0, 0, 20, 20))
            alive.append(weakref.ref(image))
            yield image

    colors.set_vocabulary(["red"])
    most = 0
    for _ in colors(frames()):
        most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 20
    assert most <= colors.settings.batch_size


def test_a_video(colors, tmp_path):
    path = write(
        tmp_path / "clip.mp4",
        [draw_image(64, 96, red=(8 * i, 8, 8 * i + 32, 40)) for i in range(6)],
    )
    colors.set_vocabulary(["blue", "red"])
    for source in (path, str(path), Video(path)):
        results = colors(source)
        assert not isinstance(results, list)
        for i, instances in enumerate(results):
            assert instances.image_size == (64, 96)
            assert instances.labels == ["red"]
            box = [8 * i, 8, 8 * i + 32, 40]
            np.testing.assert_allclose(instances.pred_boxes.tensor, [box], atol=2)
        assert i == 5
    with pytest.raises(UserError, match=r"clip\.mp4: this is a video"):
        colors([path])
    with pytest.raises(UserError, match=r"nowhere\.mp4: this video does not exist"):
        colors("nowhere.mp4")


@pytest.mark.parametrize("images", [None, 3, [None], [draw_image()[:0]], "missing.png", [b""]])
def test_images_that_cannot_be_read(colors, images):
    colors.set_vocabulary(["red"])
    with pytest.raises(UserError):
        colors(images)


def test_settings_of_a_call_apply_to_that_call_alone(colors):
    image = draw_image(red=(0, 0, 20, 20), blue=(30, 30, 50, 50), lime=(60, 0, 70, 10))
    colors.set_vocabulary(["red", "blue", "lime"])
    assert len(colors(image)) == 3
    assert len(colors(image, score_threshold=0.4)) == 2
    assert colors(image, max_detections=1).labels == ["red"]
    assert len(colors(image)) == 3
    assert colors.thresholds == DetectionThresholds(score_threshold=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"score_threshold": -0.1},
        {"score_threshold": math.nan},
        {"nms_threshold": 1.1},
        {"max_detections": 0},
    ],
)
def test_settings_out_of_range(colors, settings):
    colors.set_vocabulary(["red"])
    with pytest.raises(UserError, match=next(iter(settings))):
        colors(draw_image(), **settings)


def test_threads_share_a_predictor(colors):
    images = {name: draw_image(**{name: (10, 10, 40, 40)}) for name in COLORS}
    failures = Counter()

    def work(name):
        for _ in range(20):
            other = [color for color in COLORS if color != name]
            if colors(images[name], vocabulary=[name]).labels != [name]:
                failures[name] += 1
            if colors(images[name], vocabulary=[*other, name], score_threshold=0.9).labels:
                failures[name] += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in COLORS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_strip_has_at_least_one_row():
    one = SimpleNamespace(settings=SimpleNamespace(min_size=32, max_size=64))
    image = np.zeros((1, 10_000, 3), np.uint8)
    assert OpenVocabularyPredictor.resized(one, image).shape == (3, 1, 64)
